"""Every metric, for `/metrics`; what each means to an operator stands in `docs/observability.md`.

Labels are services, routes' templates, names of commands and outcomes: never a tenant, a person or a path.
"""

from prometheus_client import Counter, Gauge, Histogram

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
CHECKPOINTS = Counter(
    "causeloop_vault_checkpoints_total", "Checkpoints of logs, signed or refused as not continuing.", ["outcome"]
)
LOGS_BROKEN = Counter(
    "causeloop_audit_logs_broken_total", "Times a log was found not to continue what the vault signed of it."
)
MALFORMED = Counter("causeloop_audit_malformed_total", "Unreadable events appended as malformed.")
BUS_CONNECTED = Gauge("causeloop_bus_connected", "1 while the service is connected to the bus.", ["service"])
