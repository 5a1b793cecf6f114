"""The tables of auth. Of every secret only the SHA-256 is here."""

from sqlalchemy import Column, DateTime, Index, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from causeloop_common import idempotency, jobs, leases, outbox, rls, schedules
from causeloop_common.contracts.personal import PERSON

metadata = MetaData(schema="auth")

outbox.tables(metadata)
idempotency.table(metadata)
jobs.table(metadata)
schedules.table(metadata)
leases.table(metadata, {"relay": "causeloop_auth_relay", "schedule": "causeloop_auth_jobs"})

SESSION_CHANGES = ("current", "siblings", "previous", "spent", "rotated_at", "entered", "ended_at")

sessions = Table(
    "sessions",
    metadata,
    rls.tenant_column(),
    Column("id", UUID, primary_key=True),
    Column("current", LargeBinary, nullable=False),
    Column("siblings", ARRAY(LargeBinary), nullable=False, server_default="{}"),
    Column("previous", LargeBinary),
    Column("spent", ARRAY(LargeBinary), nullable=False, server_default="{}"),
    Column("rotated_at", DateTime(timezone=True), nullable=False),
    Column("entered", UUID),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    info=rls.protected("select", "insert", "update", columns={"tenant_update": SESSION_CHANGES}),
)

tokens = Table(
    "tokens",
    metadata,
    rls.tenant_column(),
    Column("id", UUID, primary_key=True),
    Column("owner", UUID, nullable=False, info=PERSON.info),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    Index("tokens_workspace_id_owner_id_idx", "workspace_id", "owner", "id"),
    info=rls.protected("select", "insert", "update", columns={"tenant_update": ("revoked_at",)}),
)
