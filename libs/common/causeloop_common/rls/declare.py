"""The declaration of a schema: its tables' protection, the policies that follow from it, its login roles."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, FetchedValue, MetaData
from sqlalchemy.dialects.postgresql import UUID

Tables = MetaData
"""A service's declared tables."""

STATEMENT_TIMEOUT_SECONDS = 10
ROLE_SETTINGS = {
    "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
    "random_page_cost": "1.1",
    "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
    "tcp_keepalives_count": "3",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
}
"""The settings of every login role, made at the role, where no pooler loses them. The last three are for the server
to notice a client that is gone, and to free its locks. A page of a table that is read by its place costs as much as one
that is read in order, so that indexes are used: a plan is made for a tenant of the usual size, for which it seems as
good to fetch all rows and sort them as to read the first of them in order."""
VERBS = ("select", "insert", "update", "delete")
TENANT_SETTING = "app.current_workspace"
PERSON_SETTING = "app.current_person"


@dataclass(frozen=True)
class Policy:
    """One permissive policy. `using` and `check` are written as PostgreSQL prints them, for the exact comparison."""

    name: str
    verb: str
    role: str
    using: str | None = None
    check: str | None = None

    def ddl(self, table: str) -> str:
        """The CREATE POLICY statement."""
        using = f" USING ({self.using})" if self.using is not None else ""
        check = f" WITH CHECK ({self.check})" if self.check is not None else ""
        return f"CREATE POLICY {self.name} ON {table} FOR {self.verb.upper()} TO {self.role}{using}{check}"


@dataclass(frozen=True)
class Protection:
    """How one table is protected: which verbs its service has, policies of other roles, and whether it is audited.

    `columns` narrows the grant that belongs to a policy, by the policy's name, to some columns.
    """

    verbs: tuple[str, ...] = VERBS
    columns: Mapping[str, tuple[str, ...]] | None = None
    extra: tuple[Policy, ...] = ()
    audited: bool = True
    reason: str | None = None

    def __post_init__(self) -> None:
        if not self.audited and not self.reason:
            raise ValueError("A table that is not audited needs a reason: protected(audited=False, reason='…').")

    def policies(self, schema: str) -> tuple[Policy, ...]:
        """All policies of the table, exactly."""
        return (*tenant_policies(schema, f"causeloop_{schema}", self.verbs), *self.extra)


def tenant_column() -> Column[Any]:
    """The column `workspace_id`: part of the key, filled in by the database from the transaction's tenant."""
    return Column("workspace_id", UUID, primary_key=True, server_default=FetchedValue())


def protected(
    *verbs: str,
    columns: Mapping[str, tuple[str, ...]] | None = None,
    extra: Iterable[Policy] = (),
    audited: bool = True,
    reason: str | None = None,
) -> dict[str, Any]:
    """`Table.info` of a protected table; no verbs means all four. `columns` narrows a policy's grant."""
    return {"rls": Protection(verbs or VERBS, columns, tuple(extra), audited, reason)}


def service_has_none(
    *extra: Policy, columns: Mapping[str, tuple[str, ...]] | None = None, reason: str
) -> dict[str, Any]:
    """`Table.info` of a table that only the roles which its policies name may touch."""
    return {"rls": Protection((), columns, extra, audited=False, reason=reason)}


def tenant(schema: str) -> str:
    """The expression of the current tenant, evaluated once per query."""
    return f"( SELECT {schema}.app_current_tenant() AS app_current_tenant)"


def person(schema: str) -> str:
    """The expression of the current person, evaluated once per query."""
    return f"( SELECT {schema}.app_current_person() AS app_current_person)"


def tenant_policies(schema: str, role: str, verbs: Iterable[str]) -> tuple[Policy, ...]:
    """The policies `tenant_<verb>` for a role."""
    own = f"(workspace_id = {tenant(schema)})"
    clauses = {
        "select": {"using": own},
        "insert": {"check": own},
        "update": {"using": own, "check": own},
        "delete": {"using": own},
    }
    return tuple(Policy(f"tenant_{verb}", verb, role, **clauses[verb]) for verb in verbs)


def roles(metadata: MetaData) -> tuple[str, ...]:
    """The login roles of a service: its own, then every other one that a policy of its tables names."""
    own = f"causeloop_{metadata.schema}"
    named = {policy.role for table in metadata.sorted_tables for policy in table.info["rls"].extra}
    return (own, *sorted(named - {own}))


def unaudited(metadata: MetaData) -> list[tuple[str, str]]:
    """Every table that may change without an event, and why."""
    return [
        (table.fullname, protection.reason or "")
        for table in metadata.sorted_tables
        if not (protection := table.info["rls"]).audited
    ]
