"""Every metric, for `/metrics`; `docs/observability.md` explains each to operators.

Labels are services, routes' templates, names of commands and outcomes: never a tenant, a person or a path. Queues,
pools and ages are read when the metrics are read, and cost a request nothing.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LAG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
_EVENTS = (1, 2, 5, 10, 25, 50, 100, 250, 500)

BUILD = Gauge("causeloop_build_info", "1; the labels name the version that runs.", ["service", "version"])
BUS_CONNECTED = Gauge("causeloop_bus_connected", "1 while the service is connected to the bus.", ["service"])

HTTP_REQUESTS = Counter("causeloop_http_requests_total", "HTTP requests, by route and status.", ["route", "status"])
HTTP_SECONDS = Histogram("causeloop_http_seconds", "Time to answer an HTTP request.", ["route"], buckets=_SECONDS)
RATE_LIMITED = Counter("causeloop_rate_limited_total", "Requests refused by a rate limit, by its policy.", ["policy"])
MEMORY_LOOKUPS = Counter(
    "causeloop_memory_lookups_total", "Lookups in what a service remembers, by result.", ["memory", "result"]
)
MEMORY_EVICTIONS = Counter(
    "causeloop_memory_evictions_total", "Values that a service forgot before their time, by cause.", ["memory", "cause"]
)
MEMORY_VALUES = Gauge("causeloop_memory_values", "Values that a service remembers.", ["memory"])

COMMANDS = Counter("causeloop_commands_total", "Commands answered, by outcome.", ["command", "outcome"])
COMMAND_SECONDS = Histogram(
    "causeloop_command_seconds", "Time from receipt of a command to its answer.", ["command"], buckets=_SECONDS
)
COMMANDS_HELD = Gauge("causeloop_commands_held", "Commands that run, and those that wait.", ["service", "state"])

CONNECTIONS = Gauge(
    "causeloop_database_connections", "Connections in use and idle, and use cases waiting.", ["service", "state"]
)
TRANSACTION_SECONDS = Histogram(
    "causeloop_database_transaction_seconds",
    "Time from asking for a connection to the end of the transaction.",
    ["service"],
    buckets=_SECONDS,
)

LEADER = Gauge("causeloop_leader", "1 while this process leads one kind of its service's work.", ["service", "name"])
LEADER_TERM = Gauge("causeloop_leader_term", "The last term in which this process led.", ["service", "name"])
LEADER_LAG = Gauge(
    "causeloop_leader_lag_seconds", "How long the oldest piece of work has been waiting.", ["service", "name"]
)

OUTBOX_PENDING = Gauge(
    "causeloop_outbox_pending", "Events committed and not yet on the bus, at most one batch.", ["service"]
)
RELAYED = Counter("causeloop_relayed_total", "Events put on the bus.", ["service"])
RELAY_BATCH = Histogram("causeloop_relay_batch_events", "Events put on the bus at once.", ["service"], buckets=_EVENTS)

CONSUMER_LAG = Gauge(
    "causeloop_consumer_lag_seconds", "How long the oldest event of a consumer has been waiting.", ["consumer"]
)
CONSUMED = Counter("causeloop_consumed_total", "Events that a consumer handled.", ["consumer"])
STREAM_USED = Gauge("causeloop_stream_used_ratio", "The part of its space that a stream on the bus uses.", ["stream"])
CONFIRMED = Counter("causeloop_outbox_confirmed_total", "Events that the log has receipted.", ["service"])
UNRECEIPTED = Gauge(
    "causeloop_outbox_unreceipted_seconds",
    "Age of the oldest event that the log has not receipted; 0 without one, and where another leads.",
    ["service"],
)
SENT_AGAIN = Counter(
    "causeloop_outbox_sent_again_total",
    "Events sent again: acknowledged by the intake, and not in the log; or since an operator asked for it.",
    ["service", "why"],
)
RECEIPT_ALARMS = Counter(
    "causeloop_outbox_receipt_alarms_total",
    "Receipts that show another event under an event's id, or one that the log has as malformed.",
    ["service", "why"],
)
TAKEN_BACK = Counter(
    "causeloop_outbox_taken_back_total", "Confirmations taken back after audit's database was restored.", ["service"]
)
SET_ASIDE = Counter("causeloop_outbox_set_aside_total", "Rows that can never be announced.", ["service"])

DEAD_LETTERS = Counter("causeloop_dead_letters_total", "Events that a consumer could not handle.", ["consumer"])

JOBS_RUNNING = Gauge("causeloop_jobs_running", "Jobs whose steps run in this process.", ["service"])
JOBS_WAITING = Gauge("causeloop_jobs_waiting_seconds", "Age of the oldest due job that no worker took.", ["service"])
JOB_STEPS = Counter("causeloop_job_steps_total", "Steps of jobs, by outcome.", ["job", "outcome"])
JOB_STEP_SECONDS = Histogram("causeloop_job_step_seconds", "Time of a job's step.", ["job"], buckets=_SECONDS)

STREAMS = Gauge("causeloop_streams_open", "Streams of the log that are open.")
STREAMS_ENDED = Counter("causeloop_streams_ended_total", "Streams that ended, by reason.", ["why"])
STREAMED = Counter("causeloop_streamed_entries_total", "Entries written to streams.")

APPENDED = Counter("causeloop_audit_appended_total", "Entries appended to logs.")
CHECKPOINTS = Counter(
    "causeloop_vault_checkpoints_total", "Checkpoints of logs, signed or refused as not continuing.", ["outcome"]
)
LOGS_BROKEN = Counter(
    "causeloop_audit_logs_broken_total", "How often a log was found that does not continue what the vault signed of it."
)
LOGS_REFUSED = Gauge(
    "causeloop_audit_logs_refused", "Logs that do not continue what the vault signed of them; 0 where another leads."
)
HELD = Counter("causeloop_audit_held_total", "Events held because the log they belong to is damaged.")
MALFORMED = Counter("causeloop_audit_malformed_total", "Unreadable events appended as malformed.")
INTAKE_BATCH = Histogram("causeloop_audit_intake_batch_events", "Events taken in at once.", buckets=_EVENTS)
INTAKE_LAG = Histogram(
    "causeloop_audit_intake_lag_seconds",
    "Time from the act to its entry, of the oldest event of each batch.",
    buckets=_LAG_SECONDS,
)
APPEND_SECONDS = Histogram("causeloop_audit_append_seconds", "Time to append a batch.", buckets=_SECONDS)

OUTBOUND_REQUESTS = Counter(
    "causeloop_outbound_requests_total",
    "Requests and connections to the outside, by purpose and outcome.",
    ["purpose", "outcome"],
)
OUTBOUND_SECONDS = Histogram(
    "causeloop_outbound_seconds",
    "Time from the look-up of the name to the end of the answer.",
    ["purpose"],
    buckets=(*_SECONDS, 10, 30),
)

SPANS = Counter("causeloop_spans_total", "Spans of traces, by outcome of their delivery.", ["service", "outcome"])
