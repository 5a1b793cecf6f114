"""The operators' view: structured logs, traces, metrics, without secrets and personal data.

logs         JSON lines with redaction, each with the act it belongs to
traceparent  W3C Trace Context, carried by HTTP, the bus and the outbox
tracing      spans and their few attributes; export brings them to a collector
metrics      counters, gauges and histograms, served at /metrics
"""

from causeloop_common.telemetry.logs import AccessLog, Act, bind, redact, setup
from causeloop_common.telemetry.metrics import (
    APPEND_SECONDS,
    APPENDED,
    BUILD,
    BUS_CONNECTED,
    CHECKPOINTS,
    COMMAND_SECONDS,
    COMMANDS,
    COMMANDS_HELD,
    CONNECTIONS,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    INTAKE_BATCH,
    INTAKE_LAG,
    LOGS_BROKEN,
    MALFORMED,
    MEMORY_EVICTIONS,
    MEMORY_LOOKUPS,
    OUTBOX_LAG,
    OUTBOX_PENDING,
    RELAY_BATCH,
    RELAYED,
    STREAMED,
    STREAMS,
    STREAMS_ENDED,
    TRANSACTION_SECONDS,
)
from causeloop_common.telemetry.traceparent import child_traceparent, new_traceparent
from causeloop_common.telemetry.tracing import Kind, Span, Tracer

__all__ = [
    "APPENDED",
    "APPEND_SECONDS",
    "BUILD",
    "BUS_CONNECTED",
    "CHECKPOINTS",
    "COMMANDS",
    "COMMANDS_HELD",
    "COMMAND_SECONDS",
    "CONNECTIONS",
    "HTTP_REQUESTS",
    "HTTP_SECONDS",
    "INTAKE_BATCH",
    "INTAKE_LAG",
    "LOGS_BROKEN",
    "MALFORMED",
    "MEMORY_EVICTIONS",
    "MEMORY_LOOKUPS",
    "OUTBOX_LAG",
    "OUTBOX_PENDING",
    "RELAYED",
    "RELAY_BATCH",
    "STREAMED",
    "STREAMS",
    "STREAMS_ENDED",
    "TRANSACTION_SECONDS",
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
