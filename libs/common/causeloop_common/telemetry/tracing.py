"""Spans by the OpenTelemetry API: one service's work for one request, its duration and its cause.

    with caused(tracer, "cmd.vault.put_secret", headers["traceparent"], SpanKind.SERVER) as span:
        span.set_attribute("causeloop.tenant", ctx.tenant)
        ask(…, traceparent=traceparent())           # what begins inside is its child, and log lines carry its trace

Between services a span is a `traceparent` (W3C Trace Context) in a request, a message or an outbox row; inside one it
is the current span. Without an exporter spans record nothing and the trace's id travels all the same (`Untraced`); with
one they are the SDK's, which `export` loads (`docs/decisions/0024-opentelemetry.md`).

Names are templates, of which there are few. Attributes are ids, templates and numbers: a name that is not listed here,
or a text that is no such thing, does not leave the process; neither does an exception's text.
"""

import re
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    NoOpTracer,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span as span_of,
    set_span_in_context,
)

from causeloop_common.errors import AppError
from causeloop_common.telemetry.logs import redact
from causeloop_common.telemetry.traceparent import Carried, cause, current, traceparent

__all__ = ["UNTRACED", "Span", "SpanKind", "Tracer", "caused", "fail", "get_current_span", "is_tracing", "working"]

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


class Untraced(NoOpTracer):
    """Spans that record nothing and carry their cause on. One without a cause begins a trace: it gets its ids."""

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:
        """The span of the cause itself, or the first of a new trace."""
        span = current.get() if context is None else span_of(context)
        if isinstance(span, Carried):
            return span
        return Carried() if span is INVALID_SPAN else Carried.of(traceparent(span))


UNTRACED = Untraced()


def is_tracing(tracer: Tracer) -> bool:
    """Whether spans of this tracer are more than the passing on of a trace: asked before a batch makes many."""
    return tracer is not UNTRACED


def get_current_span() -> Span:
    """The innermost span that works; the API's invalid one without any."""
    return current.get()


class working:  # noqa: N801  reads as a statement: `with working(span):`
    """Make a span the current one for the block, record how the block fails, and end the span with it.

    OpenTelemetry's own context, which is dear, has the span only if a library could join it: not one that is `Carried`.
    """

    __slots__ = ("_joined", "_span", "_token")

    _token: Token[Span]
    _joined: Token[Context] | None

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        span = self._span
        self._token = current.set(span)
        self._joined = None if isinstance(span, Carried) else attach(set_span_in_context(span))
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        current.reset(self._token)
        if self._joined is not None:
            detach(self._joined)
        if error is not None:
            fail(self._span, error)
        self._span.end()


def caused(
    tracer: Tracer, name: str, traceparent: str, kind: SpanKind, attributes: Mapping[str, str] | None = None
) -> working:
    """Work that a traceparent caused, for a `with`; the first of a new trace where that is no traceparent."""
    if tracer is UNTRACED:  # at once what its `start_span` gives
        return working(Carried.of(traceparent))
    return working(tracer.start_span(name, cause(traceparent), kind, attributes))


def fail(span: Span, error: BaseException) -> None:
    """Record how a span's work failed: by the error's code, never its text."""
    if not span.is_recording():
        return
    if isinstance(error, AppError):
        code = error.code
    else:
        code = "internal_error" if isinstance(error, Exception) else "cancelled"
    span.set_attribute("error.type", code)
    if code in _FAULTS:
        span.set_status(StatusCode.ERROR)


def may_leave(name: str, value: object) -> bool:
    """Whether an attribute may leave the process."""
    if name not in ATTRIBUTES or not isinstance(value, str | int):
        return False
    return isinstance(value, int) or (_TEXT.fullmatch(value) is not None and redact(value) == value)
