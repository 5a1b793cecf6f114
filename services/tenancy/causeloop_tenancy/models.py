"""The tables of tenancy."""

from sqlalchemy import Column, DateTime, ForeignKeyConstraint, Index, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_common import idempotency, jobs, leases, outbox, rls, schedules
from causeloop_common.contracts.personal import PERSON

metadata = MetaData(schema="tenancy")

outbox.tables(metadata)
idempotency.table(metadata)
jobs.table(metadata)
schedules.table(metadata)
leases.table(metadata, {"relay": "causeloop_tenancy_relay", "schedule": "causeloop_tenancy_jobs"})

workspaces = Table(
    "workspaces",
    metadata,
    rls.tenant_column(),
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("created_by", UUID, nullable=False, info=PERSON.info),
    Column("created_at", DateTime(timezone=True), nullable=False),
    info=rls.protected("select", "insert"),
)

member_self_select = rls.Policy(
    "member_self_select",
    "select",
    "causeloop_tenancy",
    using=f"((person_id = {rls.person('tenancy')}) AND ({rls.tenant('tenancy')} IS NULL))",
)
"""The one read across tenants: a person finds where they belong, while no tenant is set."""

members = Table(
    "members",
    metadata,
    rls.tenant_column(),
    Column("person_id", UUID, primary_key=True, info=PERSON.info),
    Column("role", Text, nullable=False),
    Column("joined_at", DateTime(timezone=True), nullable=False),
    ForeignKeyConstraint(["workspace_id"], ["tenancy.workspaces.workspace_id"]),
    Index("members_person_id_workspace_id_idx", "person_id", "workspace_id"),
    info=rls.protected("select", "insert", extra=(member_self_select,)),
)
