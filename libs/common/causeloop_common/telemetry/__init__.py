"""The operators' view: structured logs, traces, metrics, without secrets and personal data.

logs         JSON lines with redaction, each with the act and the trace it belongs to
traceparent  W3C Trace Context, carried by HTTP, the bus and the outbox
tracing      spans and their few attributes
metrics      counters, gauges and histograms, served at /metrics
export       spans and metrics to a collector by OTLP; bridge turns metrics into what it takes
"""

from causeloop_common.telemetry.logs import AccessLog, Act, bind, redact, setup
from causeloop_common.telemetry.traceparent import cause, traceparent
from causeloop_common.telemetry.tracing import (
    UNTRACED,
    Span,
    SpanKind,
    Tracer,
    caused,
    fail,
    get_current_span,
    is_tracing,
    working,
)

__all__ = [
    "UNTRACED",
    "AccessLog",
    "Act",
    "Span",
    "SpanKind",
    "Tracer",
    "bind",
    "cause",
    "caused",
    "fail",
    "get_current_span",
    "is_tracing",
    "redact",
    "setup",
    "traceparent",
    "working",
]
