"""The vault's tables. Nothing here is plaintext: data keys are wrapped, named keys and values sealed."""

from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_common import idempotency, inbox, jobs, leases, outbox, rls, schedules
from causeloop_common.contracts.personal import PERSON, SEALED_CLIENT

metadata = MetaData(schema="vault")

outbox.tables(metadata)
idempotency.table(metadata)
inbox.table(metadata)
jobs.table(metadata)
schedules.table(metadata)
leases.table(metadata, {"relay": "causeloop_vault_relay", "schedule": "causeloop_vault_jobs"})

_RESEALED = {"tenant_update": ("sealed",)}  # under a newer data key; nothing else of the row changes

keyrings = Table(
    "keyrings",
    metadata,
    rls.tenant_column(),
    Column("version", Integer, primary_key=True),
    Column("wrapped", Text, nullable=False),
    Column("master", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    info=rls.protected("select", "insert", "update", columns={"tenant_update": ("state",)}),
)

keys = Table(
    "keys",
    metadata,
    rls.tenant_column(),
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("id", UUID, nullable=False),
    Column("type", Text, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    info=rls.protected("select", "insert", "update", columns=_RESEALED),
)

secrets = Table(
    "secrets",
    metadata,
    rls.tenant_column(),
    Column("path", Text, primary_key=True),
    Column("id", UUID, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    info=rls.protected("select", "insert", "update", columns={"tenant_update": ("version", "updated_at")}),
)

secret_versions = Table(
    "secret_versions",
    metadata,
    rls.tenant_column(),
    Column("path", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("created_by", Text, nullable=False, info=PERSON.info),
    Column("created_at", DateTime(timezone=True), nullable=False),
    ForeignKeyConstraint(["workspace_id", "path"], ["vault.secrets.workspace_id", "vault.secrets.path"]),
    info=rls.protected("select", "insert", "update", columns=_RESEALED),
)

sealed_values = Table(
    "sealed_values",
    metadata,
    rls.tenant_column(),
    Column("purpose", Text, primary_key=True),
    Column("record", Text, primary_key=True),
    Column("sealed", Text, nullable=False, info=SEALED_CLIENT.info),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    info=rls.protected("select", "insert", "update", "delete", columns={"tenant_update": ("sealed", "updated_at")}),
)

JOBS = "causeloop_vault_jobs"
UNAUDITED_CHECKPOINTS = "what the vault signed of a log; an event about it would move the log it signed"

signing_keys = Table(
    "signing_keys",
    metadata,
    rls.tenant_column(),
    Column("version", Integer, primary_key=True),
    Column("public", LargeBinary, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    info=rls.protected("select", "insert", "update", columns=_RESEALED),
)

LOCK_CHECKPOINTS = rls.Visit(
    "lock_checkpoints",
    """
        RETURN QUERY SELECT of_tenant, c.epoch, c.size, c.root FROM vault.checkpoints c FOR UPDATE;
        IF NOT FOUND THEN
            INSERT INTO vault.checkpoints (size, root) VALUES (0, sha256('')) ON CONFLICT DO NOTHING;
            RETURN QUERY SELECT of_tenant, c.epoch, c.size, c.root FROM vault.checkpoints c FOR UPDATE;
        END IF;
    """,
    gives="epoch integer, size bigint, root bytea",
)
MOVE_CHECKPOINTS = rls.Visit(
    "move_checkpoints",
    """
        UPDATE vault.checkpoints c SET size = sizes[place], root = roots[place] WHERE c.workspace_id = of_tenant;
    """,
    takes="sizes bigint[], roots bytea[]",
)

checkpoints = Table(
    "checkpoints",
    metadata,
    rls.tenant_column(),
    Column("epoch", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    info=rls.protected(
        "select", "insert", "update",
        columns={
            "tenant_update": ("epoch", "size", "root"), "jobs_select": ("workspace_id", "epoch", "size", "root"),
        },
        extra=(rls.Policy("jobs_select", "select", JOBS, using="true"),),
        audited=False, reason=UNAUDITED_CHECKPOINTS,
    ) | rls.visited(LOCK_CHECKPOINTS, MOVE_CHECKPOINTS),
)  # fmt: skip

epochs = Table(
    "epochs",
    metadata,
    rls.tenant_column(),
    Column("epoch", Integer, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ended_at", DateTime(timezone=True), nullable=False),
    info=rls.protected("select", "insert"),
)
