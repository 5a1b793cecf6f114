"""Spans: one service's work for one request, its duration and its cause.

    with tracer.begin("cmd.vault.put_secret", Kind.CLIENT, ctx.traceparent) as span:
        ask(…, traceparent=span.traceparent)        # the work it causes is this span's child
        span.set("causeloop.tenant", ctx.tenant)

A span's identity is the traceparent that travels on, so spans agree with what HTTP, the bus and the outbox carry. A
trace that comes in keeps its `sampled` bit; one that begins here is kept with the configured ratio, decided by its id,
so that every service decides alike. Spans are our own small objects on the path of a request; the OpenTelemetry SDK
meets them in `export`, on a thread (`docs/decisions/0012-lean-tracing.md`).

Names are templates, of which there are few. Attributes are ids, templates and numbers: a name that is not listed here,
or a text that is no such thing, does not leave the process. Without a collector there is no tracer, and nothing of
this runs: code that may have one checks `if tracer is not None`.
"""

import enum
import re
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from causeloop_common.errors import AppError
from causeloop_common.telemetry.logs import redact
from causeloop_common.telemetry.traceparent import child_traceparent

if TYPE_CHECKING:
    from causeloop_common.telemetry.export import Export

Value = str | int | bool

ATTRIBUTES = frozenset(
    {
        "causeloop.action",  # an event's type: `vault.secret_written`
        "causeloop.event_id",
        "causeloop.log_index",
        "causeloop.replayed",
        "causeloop.request_id",
        "causeloop.tenant",
        # the names of OpenTelemetry's semantic conventions
        "db.namespace",
        "db.system.name",
        "error.type",
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "messaging.system",
    }
)
"""A span's only attributes. None of them is a secret, a token, a path of a secret, a body or about a person."""

_TEXT = re.compile(r"[A-Za-z0-9_.:/{}*-]{1,128}")
_FAULTS = frozenset({"internal_error", "unavailable", "timeout", "audit_unavailable", "cancelled"})
"""Codes of what went wrong on our side; a refusal is an answer and no fault."""


class Kind(enum.Enum):
    """A span's place, by OpenTelemetry's names."""

    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Span:
    """One piece of work. `traceparent` is its own identity, `parent` that of its cause, empty at the root."""

    __slots__ = ("_tracer", "attributes", "began", "code", "ended", "kind", "name", "parent", "traceparent")

    def __init__(self, tracer: "Tracer", name: str, kind: Kind, parent: str, traceparent: str) -> None:
        self._tracer = tracer
        self.name = name
        self.kind = kind
        self.parent = parent
        self.traceparent = traceparent
        self.attributes: dict[str, Value] = {}
        self.code: str | None = None
        self.began = time.time_ns()
        self.ended = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        self.end()

    def set(self, name: str, value: Value) -> None:
        """Set an attribute; one that is not listed in `ATTRIBUTES` does not leave the process."""
        self.attributes[name] = value

    def fail(self, error: BaseException) -> None:
        """Record how it failed: by the error's code, never its text."""
        if isinstance(error, AppError):
            self.code = error.code
        elif isinstance(error, Exception):
            self.code = "internal_error"
        else:
            self.code = "cancelled"

    def end(self) -> None:
        """The work is done; at most once."""
        if self.ended == 0:
            self.ended = time.time_ns()
            self._tracer.record(self)

    @property
    def is_sampled(self) -> bool:
        """Whether it is to be kept: the lowest bit of the flags."""
        return int(self.traceparent[-1], 16) & 1 == 1

    @property
    def is_fault(self) -> bool:
        """Whether it failed through no fault of the caller."""
        return self.code in _FAULTS

    def exported(self) -> dict[str, Value]:
        """The attributes that may leave the process."""
        given = self.attributes if self.code is None else {**self.attributes, "error.type": self.code}
        return {name: value for name, value in given.items() if name in ATTRIBUTES and _is_harmless(value)}


class Tracer:
    """The spans of one service, on their way to the collector at `endpoint`.

    `ratio` is the part of the traces beginning here that is kept. `headers` are sent along to the collector. Before
    `start` and after `stop` spans are made and go nowhere.
    """

    def __init__(
        self,
        service: str,
        endpoint: str,
        *,
        ratio: float = 1.0,
        headers: dict[str, str] | None = None,
        ca_file: str | None = None,
    ) -> None:
        self.service = service
        self._endpoint = endpoint
        self._bound = round(ratio * 2**64)
        self._headers = headers or {}
        self._ca_file = ca_file
        self._export: Export | None = None

    def begin(self, name: str, kind: Kind, parent: str = "") -> Span:
        """A span caused by `parent`; the root of a new trace when that is no traceparent."""
        own = child_traceparent(parent)
        if own[:36] != parent[:36]:
            parent = ""
            if int(own[19:35], 16) >= self._bound:
                own = f"{own[:53]}00"
        return Span(self, name, kind, parent, own)

    def record(self, span: Span) -> None:
        """Take a span that ended."""
        if self._export is not None and span.is_sampled:
            self._export.put(span)

    def start(self) -> None:
        """Begin to deliver; OpenTelemetry is loaded only now."""
        from causeloop_common.telemetry.export import Export  # noqa: PLC0415

        self._export = Export(self.service, self._endpoint, self._headers, self._ca_file)

    async def stop(self) -> None:
        """Deliver what is waiting, as far as that is possible within two seconds."""
        export, self._export = self._export, None
        if export is not None:
            await export.stop()


def _is_harmless(value: Value) -> bool:
    return not isinstance(value, str) or (_TEXT.fullmatch(value) is not None and redact(value) == value)
