"""Structured logs: one JSON object per line on standard output.

A line carries the service, request id and tenant of the act it belongs to, and the trace id of the current span. Text
that looks like a credential is struck out before a line leaves the process, as the last of several defences: secrets
are `SecretStr` or sealed long before.
"""

import contextvars
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from causeloop_common.contracts import topology
from causeloop_common.contracts.base import PERSONAL, commands, events
from causeloop_common.contracts.personal import mark
from causeloop_common.telemetry.traceparent import trace_id

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_CREDENTIAL = re.compile(
    r"clp_[a-z]+_[A-Za-z0-9_]+"  # our own handles
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # any JWT
    r"|eyJ[A-Za-z0-9_-]{64,}=*"  # a service's keys, as `causeloop keys` prints them
    r"|clv1:\d+:[A-Za-z0-9+/=]+"  # vault ciphertext
    r"|(?<=://)[^\s:/@\"]+:[^\s@\"\\]+(?=@)"  # user and password in an address
    r"|S[UA][A-Z2-7]{56}"  # nkey seeds
    r"|(?i:bearer)\s+[^\s\"\\]{8,}"
)


_PERSONAL = frozenset(
    name
    for owner in topology.ANNOUNCERS.values()
    for kind in (*commands(owner), *events(owner))
    for name, field in kind.model_fields.items()
    if mark(field) is not None
)
"""The names of fields with personal data: a line that is given one has a placeholder in its place."""


class Act(NamedTuple):
    """The piece of work that a log line belongs to."""

    service: str
    request_id: str
    tenant: str


_act: contextvars.ContextVar[Act | None] = contextvars.ContextVar("act", default=None)


def bind(act: Act) -> None:
    """Set the act of the current task; later log lines carry it."""
    _act.set(act)


def redact(text: str) -> str:
    """The text with everything that looks like a credential struck out."""
    return _CREDENTIAL.sub("[redacted]", text)


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        act = _act.get()
        if act is not None:
            line["service"] = act.service
            line["request_id"] = act.request_id
            line["tenant"] = act.tenant
            line["trace_id"] = trace_id()
        if len(record.__dict__) > len(_STANDARD) - 4:
            more = ((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)
            line.update((name, PERSONAL if name in _PERSONAL else value) for name, value in more)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(orjson.dumps(line, default=str).decode())


class AccessLog:
    """One line per HTTP request, formed like every other line, without the machinery: nothing in it is free text."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._enabled = logging.getLogger("causeloop.access")

    def write(self, act: Act, method: str, route: str, status: int, milliseconds: float) -> None:
        """Log a request by its route's template, never its path, which may name things of a tenant."""
        if not self._enabled.isEnabledFor(logging.INFO):
            return
        line = {
            "time": datetime.now(UTC),
            "level": "INFO",
            "service": self._service,
            "logger": "causeloop.access",
            "message": f"{method} {route} {status}",
            "request_id": act.request_id,
            "tenant": act.tenant,
            "trace_id": trace_id(),
            "milliseconds": milliseconds,
        }
        output = sys.stdout.buffer
        output.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        output.flush()


def setup(service: str, level: str = "INFO") -> None:
    """Log as JSON lines to standard output; the process's one call."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # No line shows these, so nothing looks them up (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for noisy in ("uvicorn.access", "httpx2", "httpcore2", "faststream"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
