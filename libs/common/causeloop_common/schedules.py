"""Schedules: of each task that a service does once per period, the last period for which it is done."""

from collections.abc import Iterator

from sqlalchemy import Column, DateTime, MetaData, Table, Text

from causeloop_common import rls

LEASE = "schedule"
"""The name of the lease under which one replica does the tasks."""
LEASE_SECONDS = 20.0
"""How long it lasts: a task that is due once an hour can wait for so long, and an idle service renews less."""

_FORGOTTEN_AT_ONCE = 1000
_REASON = "which periods are done, no tenant's data"


def role(schema: str) -> str:
    """The role that does what concerns all tenants at certain times."""
    return f"causeloop_{schema}_jobs"


def table(metadata: MetaData) -> Table:
    """Declare the table in a service's metadata."""
    return Table(
        "schedules",
        metadata,
        Column("name", Text, primary_key=True),
        Column("done_at", DateTime(timezone=True), nullable=False),
        info=rls.service_has_none(*_policies(str(metadata.schema)), reason=_REASON),
    )


def ddl(schema: str) -> Iterator[str]:
    """The statements that make the table, for a migration."""
    yield f"CREATE TABLE {schema}.schedules (name text PRIMARY KEY, done_at timestamptz NOT NULL DEFAULT '-infinity')"
    yield from rls.protect_from_service(schema, "schedules", *_policies(schema), reason=_REASON)


def due(schema: str) -> str:
    """The tasks of these names whose last period is not done, and for how many seconds each has been due.

    By names and seconds of their periods. A period begins at a multiple of its length since 1970. A task that was never
    done is due as of now.
    """
    return f"""
        SELECT name, coalesce(extract(epoch FROM now() - nullif(done_at, '-infinity'))::float8 - seconds, 0) AS late
        FROM unnest($1::text[], $2::float8[]) AS task(name, seconds) LEFT JOIN {schema}.schedules USING (name)
        WHERE done_at IS NULL OR done_at < {_BEGIN}
    """  # noqa: S608


def begin(schema: str) -> str:
    """Locks the row of a task by its name and its period's seconds. No row: another one did this period meanwhile."""
    return f"""
        INSERT INTO {schema}.schedules (name) VALUES ($1)
        ON CONFLICT (name) DO UPDATE SET done_at = schedules.done_at
        WHERE schedules.done_at < (SELECT {_BEGIN} FROM (VALUES ($2::float8)) AS task(seconds)) RETURNING name
    """  # noqa: S608


def end(schema: str) -> str:
    """Notes that a task, by its name and its period's seconds, is done for the period that runs."""
    return f"""
        UPDATE {schema}.schedules SET done_at = (SELECT {_BEGIN} FROM (VALUES ($2::float8)) AS task(seconds))
        WHERE name = $1
    """  # noqa: S608


def policies(schema: str, expired: str) -> tuple[rls.Policy, ...]:
    """Let the role see and remove the expired rows of a table, of all tenants."""
    return tuple(rls.Policy(f"expired_{verb}", verb, role(schema), using=expired) for verb in ("select", "delete"))


def forget(table: Table) -> str:
    """Removes some of a table's expired rows, of all tenants; 'DELETE 0' when nothing is left."""
    key = ", ".join(table.primary_key.columns.keys())
    expired = f"SELECT {key} FROM {table.fullname} WHERE {table.info['expired']} LIMIT {_FORGOTTEN_AT_ONCE}"  # noqa: S608
    return f"DELETE FROM {table.fullname} WHERE ({key}) IN ({expired})"  # noqa: S608


_BEGIN = "to_timestamp(floor(extract(epoch FROM now())::float8 / seconds) * seconds)"


def _policies(schema: str) -> tuple[rls.Policy, ...]:
    clauses = {"select": {"using": "true"}, "insert": {"check": "true"}, "update": {"using": "true", "check": "true"}}
    return tuple(rls.Policy(f"jobs_{verb}", verb, role(schema), **clause) for verb, clause in clauses.items())
