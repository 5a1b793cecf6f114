"""W3C Trace Context: the text that carries a trace through HTTP, the bus and the outbox, with or without an exporter.

00-<trace id, 32 hex>-<span id, 16 hex>-<flags, 2 hex; the lowest bit: sampled; the next: the trace id is random>
"""

import os
import re
from contextvars import ContextVar

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, TraceFlags, set_span_in_context

_WELL_FORMED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Carried(NonRecordingSpan):
    """A span that is known by its traceparent and records nothing. Its numbers are read when a recording span asks.

    One without a traceparent begins a trace, sampled: it gets its ids when somebody asks for them.
    """

    def __init__(self, text: str = "") -> None:
        self._text = text

    @classmethod
    def of(cls, traceparent: str) -> "Carried":
        """The span of a traceparent; the start of a new trace for a text that is none."""
        return cls(traceparent if _WELL_FORMED.fullmatch(traceparent) is not None else "")

    @property
    def text(self) -> str:
        """The traceparent."""
        if not self._text:
            ids = os.urandom(24).hex()
            self._text = f"00-{ids[:32]}-{ids[32:]}-03"
        return self._text

    def get_span_context(self) -> SpanContext:
        """Trace id, span id and flags, as OpenTelemetry keeps them."""
        text = self.text
        flags = TraceFlags(int(text[53:], 16))
        return SpanContext(int(text[3:35], 16), int(text[36:52], 16), is_remote=True, trace_flags=flags)


current: ContextVar[Span] = ContextVar("span", default=INVALID_SPAN)
"""The span that `working` made the current one."""


def cause(traceparent: str) -> Context:
    """The context of work that a traceparent caused; empty, so that a new trace begins, for a text that is none."""
    if _WELL_FORMED.fullmatch(traceparent) is None:
        return Context()
    return set_span_in_context(Carried(traceparent), Context())


def traceparent(span: Span | None = None) -> str:
    """The text to send to the work that this span causes, by default the current one; empty without any."""
    if span is None:
        span = current.get()
    if isinstance(span, Carried):
        return span.text
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def trace_id() -> str:
    """The current span's trace, in hex; empty without any."""
    return traceparent()[3:35]
