"""The operators' view: structured logs, traces, metrics, without secrets and personal data.

logs         JSON lines with redaction, each with the act it belongs to
traceparent  W3C Trace Context, carried by HTTP, the bus and the outbox
tracing      spans and their few attributes; export brings them to a collector
metrics      counters, gauges and histograms, served at /metrics
"""

from causeloop_common.telemetry.logs import AccessLog, Act, bind, redact, setup
from causeloop_common.telemetry.traceparent import child_traceparent, new_traceparent
from causeloop_common.telemetry.tracing import Kind, Span, Tracer

__all__ = [
    "AccessLog",
    "Act",
    "Kind",
    "Span",
    "Tracer",
    "bind",
    "child_traceparent",
    "new_traceparent",
    "redact",
    "setup",
]
