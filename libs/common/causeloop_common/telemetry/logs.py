"""Structured logs: one JSON object per line on standard output.

A line carries the service, request id and tenant of the act it belongs to, and the trace id of the current span. Text
that looks like a credential is struck out before a line leaves the process, as the last of several defences: secrets
are `SecretStr` or sealed long before.

A warning that repeats itself is written once a minute, with the number of those between in `repeated`, and once more
when it is over: a password that is wrong fills no disk. Errors are all written.
"""

import asyncio
import contextvars
import logging
import re
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from causeloop_common.contracts import topology
from causeloop_common.contracts.base import PERSONAL, commands, events
from causeloop_common.contracts.personal import mark
from causeloop_common.telemetry.traceparent import trace_id

REPEAT_SECONDS = 60.0
"""The time between two lines of a warning that repeats itself."""
QUIET_SECONDS = 10.0
"""A warning that has not come for so long is over."""
_WARNINGS = 200
"""Of so many warnings the repetition is noticed at once."""
_clock = time.monotonic

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


@dataclass
class _Repeated:
    """A warning that was written, and those like it since."""

    record: logging.LogRecord
    written: float
    last: float
    more: int = 0
    """How many were left out since it was written."""
    count: int = 1


class _Handler(logging.StreamHandler[Any]):
    """Writes lines; of equal warnings one a minute."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._warnings: dict[tuple[str, str], _Repeated] = {}
        self._looks = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is a warning that was written less than a minute ago."""
        if self._warnings:
            self._end_quiet_ones()
        try:
            is_left_out = record.levelno == logging.WARNING and self._is_repeated(record)
        except Exception:  # noqa: BLE001  a line that cannot be formed fails nobody, as in every handler
            self.handleError(record)
            return
        if not is_left_out:
            super().emit(record)

    def _is_repeated(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, record.getMessage()), _clock()
        known = self._warnings.get(key)
        if known is None:
            if len(self._warnings) < _WARNINGS:
                self._warnings[key] = _Repeated(record, written=now, last=now)
            return False
        known.last = now
        known.count += 1
        self._look_later()
        if now - known.written < REPEAT_SECONDS:
            known.more += 1
            return True
        record.repeated = known.more
        known.written, known.more = now, 0
        return False

    def _end_quiet_ones(self) -> None:
        """Forget the warnings that came no more, and write that those which were left out are over."""
        now = _clock()
        for key, known in [*self._warnings.items()]:
            if now - known.last < QUIET_SECONDS:
                continue
            del self._warnings[key]
            if known.count > 1:
                over = logging.makeLogRecord({"name": known.record.name, "levelno": logging.INFO, "levelname": "INFO"})
                over.msg, over.args = "over, after %d times: %s", (known.count, key[1])
                over.repeated = known.more
                contextvars.Context().run(super().emit, over)  # it belongs to no act

    def _look_later(self) -> None:
        """Have an end written even if nothing else is logged; outside an event loop the next line brings it."""
        if self._looks:
            return
        try:
            asyncio.get_running_loop().call_later(QUIET_SECONDS, self._look)
        except RuntimeError:
            return
        self._looks = True

    def _look(self) -> None:
        self.acquire()
        try:
            self._looks = False
            self._end_quiet_ones()
            if any(known.count > 1 for known in self._warnings.values()):
                self._look_later()
        finally:
            self.release()


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
            "method": method,
            "route": route,
            "status": status,
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
    handler = _Handler(sys.stdout)
    handler.setFormatter(_JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # No line shows these, so nothing looks them up (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for noisy in ("uvicorn.access", "uvicorn.error", "httpx2", "httpcore2", "faststream"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
