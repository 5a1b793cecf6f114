"""What operators see: structured logs, trace context, metrics; and what they must never see.

logs         JSON lines with redaction, each with the act it belongs to
traceparent  W3C Trace Context, carried by HTTP, the bus and the outbox
metrics      counters, gauges and histograms, served at /metrics
"""

from causeloop_common.telemetry.logs import AccessLog, Act, bind, redact, setup
from causeloop_common.telemetry.metrics import (
    APPENDED,
    BUS_CONNECTED,
    CHECKPOINTS,
    COMMAND_SECONDS,
    COMMANDS,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    LOGS_BROKEN,
    MALFORMED,
    OUTBOX_PENDING,
    RELAYED,
    STREAMED,
    STREAMS,
    STREAMS_ENDED,
)
from causeloop_common.telemetry.traceparent import child_traceparent, new_traceparent

__all__ = [
    "APPENDED",
    "BUS_CONNECTED",
    "CHECKPOINTS",
    "COMMANDS",
    "COMMAND_SECONDS",
    "HTTP_REQUESTS",
    "HTTP_SECONDS",
    "LOGS_BROKEN",
    "MALFORMED",
    "OUTBOX_PENDING",
    "RELAYED",
    "STREAMED",
    "STREAMS",
    "STREAMS_ENDED",
    "AccessLog",
    "Act",
    "bind",
    "child_traceparent",
    "new_traceparent",
    "redact",
    "setup",
]
