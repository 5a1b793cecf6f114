"""What operators see: structured logs, trace context, metrics; and what they must never see.

One JSON object per line on standard output, with the service, request id, tenant and trace id of the act it
belongs to. Whatever looks like a credential is struck out before a line leaves the process, as the last of
several defences: secrets are `SecretStr` or sealed long before. Trace context is W3C `traceparent`, carried by
HTTP, the bus and the outbox.
"""

import contextvars
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from prometheus_client import Counter, Gauge, Histogram

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_CREDENTIAL = re.compile(
    r"clp_[a-z]+_[A-Za-z0-9_]+"  # our own handles
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # any JWT
    r"|eyJ[A-Za-z0-9_-]{64,}=*"  # a service's keys, as `causeloop keys` prints them
    r"|clv1:\d+:[A-Za-z0-9+/=]+"  # vault ciphertext
    r"|(?<=://)[^\s:/@\"]+:[^\s@\"\\]+(?=@)"  # user and password in an address
    r"|S[UA][A-Z2-7]{56}"  # nkey seeds
    r"|(?i:bearer)\s+[^\s\"\\]{8,}"
)

COMMANDS = Counter("causeloop_commands_total", "Commands answered, by outcome.", ["command", "outcome"])
COMMAND_SECONDS = Histogram(
    "causeloop_command_seconds",
    "Time from receipt of a command to its answer.",
    ["command"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
HTTP_REQUESTS = Counter("causeloop_http_requests_total", "HTTP requests, by route and status.", ["route", "status"])
HTTP_SECONDS = Histogram(
    "causeloop_http_seconds",
    "Time to answer an HTTP request.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
OUTBOX_PENDING = Gauge(
    "causeloop_outbox_pending", "Events committed and not yet on the bus, at most one batch.", ["service"]
)
RELAYED = Counter("causeloop_relayed_total", "Events put on the bus.", ["service"])
STREAMS = Gauge("causeloop_streams_open", "Streams of the log that are open.")
STREAMS_ENDED = Counter("causeloop_streams_ended_total", "Streams that ended, by why.", ["why"])
STREAMED = Counter("causeloop_streamed_entries_total", "Entries written to streams.")
APPENDED = Counter("causeloop_audit_appended_total", "Entries appended to logs.")
MALFORMED = Counter("causeloop_audit_malformed_total", "Unreadable events appended as malformed.")
BUS_CONNECTED = Gauge("causeloop_bus_connected", "1 while the service is connected to the bus.", ["service"])


class Act(NamedTuple):
    """What a log line belongs to."""

    service: str
    request_id: str
    tenant: str
    traceparent: str


_act: contextvars.ContextVar[Act | None] = contextvars.ContextVar("act", default=None)


def bind(act: Act) -> None:
    """Say what the current task works on; later log lines carry it."""
    _act.set(act)


def new_traceparent() -> str:
    """The start of a new trace, sampled."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def child_traceparent(parent: str) -> str:
    """The next span of a trace; a new trace when `parent` is not one (W3C Trace Context)."""
    if _TRACEPARENT.fullmatch(parent) is None:
        return new_traceparent()
    return f"{parent[:36]}{os.urandom(8).hex()}{parent[52:]}"


def redact(text: str) -> str:
    """The text with everything that looks like a credential struck out."""
    return _CREDENTIAL.sub("[redacted]", text)


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
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
            line["trace_id"] = act.traceparent[3:35]
        if len(record.__dict__) > len(_STANDARD) - 3:
            line.update((k, v) for k, v in record.__dict__.items() if k not in _STANDARD)
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
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": "INFO",
            "service": self._service,
            "logger": "causeloop.access",
            "message": f"{method} {route} {status}",
            "request_id": act.request_id,
            "tenant": act.tenant,
            "trace_id": act.traceparent[3:35],
            "milliseconds": milliseconds,
        }
        sys.stdout.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE).decode())
        sys.stdout.flush()


def setup(service: str, level: str = "INFO") -> None:
    """Log as JSON lines to standard output; the process's one call."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # What no line shows need not be looked up for each (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for noisy in ("uvicorn.access", "httpx", "httpcore", "faststream"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
