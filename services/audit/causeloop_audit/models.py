"""The tables of the log.

`heads` has the state of every tenant's tree, `entries` its leaves, `nodes` the roots of its complete subtrees, from
which proofs are made, and `checkpoints` the last one that the vault signed. The service reads under row security and
keeps the checkpoints. `refused` has the logs that the vault signs no more. Only the writer's role appends, across
tenants; it also sees how far checkpoints are behind, and which logs are refused.
"""

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, UUID

from causeloop_common import idempotency, jobs, leases, outbox, rls, schedules
from causeloop_common.contracts.personal import PERSON

metadata = MetaData(schema="audit")

WRITER = "causeloop_audit_writer"
REASON = "the log is the record"

outbox.tables(metadata)
idempotency.table(metadata)
jobs.table(metadata)
schedules.table(metadata)
leases.table(
    metadata,
    {
        "relay": "causeloop_audit_relay",
        "schedule": "causeloop_audit_jobs",
        "intake": WRITER,
        "signer": "causeloop_audit",
    },
)

ENTRIES_EXTRA = (
    rls.Policy("writer_insert", "insert", WRITER, check="true"),
    rls.Policy("writer_select", "select", WRITER, using="true"),
)
ENTRIES_COLUMNS = {"writer_select": ("workspace_id", "service", "event_id", "digest", "action")}
HELD_EXTRA = (
    rls.Policy("writer_select", "select", WRITER, using="true"),
    rls.Policy("writer_insert", "insert", WRITER, check="true"),
    rls.Policy("writer_delete", "delete", WRITER, using="true"),
)
HEADS_EXTRA = (
    rls.Policy("writer_select", "select", WRITER, using="true"),
    rls.Policy("writer_insert", "insert", WRITER, check="true"),
    rls.Policy("writer_update", "update", WRITER, using="true", check="true"),
)

HEADS_COLUMNS = {"writer_update": ("size", "root", "peaks")}
NODES_EXTRA = (rls.Policy("writer_insert", "insert", WRITER, check="true"),)
CHECKPOINTS_EXTRA = (rls.Policy("writer_select", "select", WRITER, using="true"),)
REFUSED_EXTRA = (rls.Policy("writer_select", "select", WRITER, using="true"),)
REFUSED_COLUMNS = {
    "writer_select": ("workspace_id", "size", "entries"),
    "tenant_update": ("size", "entries", "why"),
}
CHECKPOINTS_COLUMNS = {
    "writer_select": ("workspace_id", "size", "root"),
    "tenant_update": ("epoch", "size", "root", "note"),
}

intake = Table(
    "intake",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("batch", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("stream", Text, nullable=False),
    Column("again_to", BigInteger, nullable=False),
    Column("terms", JSONB, nullable=False),
    info=rls.service_has_none(
        rls.Policy("writer_select", "select", WRITER, using="true"),
        rls.Policy("writer_update", "update", WRITER, using="true", check="true"),
        reason="how far the stream is entered, no tenant's data",
    ),
)

heads = Table(
    "heads",
    metadata,
    rls.tenant_column(),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("peaks", LargeBinary, nullable=False),
    info=rls.protected("select", columns=HEADS_COLUMNS, extra=HEADS_EXTRA, audited=False, reason=REASON),
)

entries = Table(
    "entries",
    metadata,
    rls.tenant_column(),
    Column("index", BigInteger, primary_key=True),
    Column("service", Text, nullable=False),
    Column("event_id", UUID, nullable=False),
    Column("digest", LargeBinary),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False, info=PERSON.info),
    Column("credential", Text),
    Column("target", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("leaf", Text),
    Index("entries_workspace_id_actor_index_idx", "workspace_id", "actor", "index"),
    Index("entries_workspace_id_target_index_idx", "workspace_id", "target", "index"),
    info=rls.protected("select", columns=ENTRIES_COLUMNS, extra=ENTRIES_EXTRA, audited=False, reason=REASON),
)

held = Table(
    "held",
    metadata,
    rls.tenant_column(),
    Column("service", Text, primary_key=True),
    Column("event_id", UUID, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("subject", Text, nullable=False),
    Column("headers", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("came_at", DateTime(timezone=True), nullable=False),
    info=rls.service_has_none(*HELD_EXTRA, reason="events on their way into the log"),
)

nodes = Table(
    "nodes",
    metadata,
    rls.tenant_column(),
    Column("level", SmallInteger, primary_key=True),
    Column("index", BigInteger, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    info=rls.protected("select", extra=NODES_EXTRA, audited=False, reason=REASON),
)

LOG_STATES = rls.Visit(
    "log_states",
    """
        RETURN QUERY
        SELECT of_tenant, h.size, h.root, h.peaks, c.size, c.root, c.note, c.epoch, r.size, r.entries, r.why
        FROM (VALUES (true)) AS log
        LEFT JOIN audit.heads h ON true LEFT JOIN audit.checkpoints c ON true LEFT JOIN audit.refused r ON true;
    """,
    gives="size bigint, root bytea, peaks bytea, signed_size bigint, signed_root bytea, note text, epoch integer, "
    "refused_size bigint, entries bigint, why text",
)
LOG_HASHES = rls.Visit(
    "log_hashes",
    """
        RETURN QUERY
        SELECT of_tenant, CASE WHEN run.level = 0 THEN
                   (SELECT string_agg(e.leaf_hash, '' ORDER BY e.index) FROM audit.entries e
                    WHERE e.index >= run.first AND e.index < run.first + run.count)
               ELSE
                   (SELECT string_agg(n.hash, '' ORDER BY n.index) FROM audit.nodes n
                    WHERE n.level = run.level AND n.index >= run.first AND n.index < run.first + run.count)
               END
        FROM unnest(levels[done + 1 : done + runs[place]], firsts[done + 1 : done + runs[place]],
                    counts[done + 1 : done + runs[place]]) WITH ORDINALITY AS run(level, first, count, number)
        ORDER BY run.number;
        done := done + runs[place];
    """,
    takes="runs integer[], levels smallint[], firsts bigint[], counts bigint[]",
    gives="hashes bytea",
    declares="done integer := 0;",
)
KEEP_CHECKPOINTS = rls.Visit(
    "keep_checkpoints",
    """
        INSERT INTO audit.checkpoints (size, root, note, epoch)
        VALUES (sizes[place], roots[place], notes[place], epochs[place])
        ON CONFLICT (workspace_id) DO UPDATE
        SET size = excluded.size, root = excluded.root, note = excluded.note, epoch = excluded.epoch
        WHERE (checkpoints.epoch, checkpoints.size) <= (excluded.epoch, excluded.size);
        DELETE FROM audit.refused r WHERE r.workspace_id = of_tenant;
    """,
    takes="sizes bigint[], roots bytea[], notes text[], epochs integer[]",
)

checkpoints = Table(
    "checkpoints",
    metadata,
    rls.tenant_column(),
    Column("epoch", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    info=rls.protected(
        "select", "insert", "update",
        columns=CHECKPOINTS_COLUMNS, extra=CHECKPOINTS_EXTRA, audited=False, reason=REASON,
    ) | rls.visited(LOG_STATES, LOG_HASHES, KEEP_CHECKPOINTS),
)  # fmt: skip

refused = Table(
    "refused",
    metadata,
    rls.tenant_column(),
    Column("size", BigInteger, nullable=False),
    Column("entries", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    info=rls.protected(columns=REFUSED_COLUMNS, extra=REFUSED_EXTRA, audited=False, reason=REASON),
)
