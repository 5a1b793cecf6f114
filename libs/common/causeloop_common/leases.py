"""Leases: of each kind of work that one replica does at a time, who leads it, until when, and in which term.

A row for each kind, made by a migration. A policy binds it to the one role that leads this kind, so no other role can
see, take or lock it. All times are the database's. A new leader counts the term up; `require_term` in a transaction's
last breath, or in its only statement, refuses the commit of a leader whose term is over, and holds the row so that no
new term begins before the commit is done.
"""

import uuid
from collections.abc import Iterator, Mapping

from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_common import rls

TERM_STATE = "CL002"
"""SQLSTATE of the refusal of a commit in a term that is over."""

LEASE_SECONDS = 2.0
"""So long after its last renewal a leader that fell silent is succeeded, unless its work can wait longer."""

_REASON = "who leads which work, no tenant's data"
_CHANGED = ("term", "holder", "until")
_FENCE = """
BEGIN
    PERFORM FROM {schema}.leases
    WHERE name = lease AND term = held AND holder = by AND until > clock_timestamp() FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % of {schema}.% is over', held, lease USING ERRCODE = '{state}';
    END IF;
    RETURN true;
END
"""


def table(metadata: MetaData, leaders: Mapping[str, str]) -> Table:
    """Declare the leases of a service in its metadata: each kind of work with the role that leads it."""
    policies = [policy for name, role in leaders.items() for policy in _policies(name, role)]
    protection = rls.service_has_none(*policies, columns=_columns(*leaders), reason=_REASON)
    return Table(
        "leases",
        metadata,
        Column("name", Text, primary_key=True),
        Column("term", BigInteger, nullable=False),
        Column("holder", UUID),
        Column("until", DateTime(timezone=True), nullable=False),
        info=protection | {"functions": {"require_term": _fence(str(metadata.schema))}, "leaders": dict(leaders)},
    )


def leader_of(metadata: MetaData, name: str) -> str:
    """The role that leads a kind of work."""
    return str(metadata.tables[f"{metadata.schema}.leases"].info["leaders"][name])


def ddl(schema: str, leaders: Mapping[str, str]) -> Iterator[str]:
    """The statements that make the table with these leases, for a migration."""
    yield f"""
        CREATE TABLE {schema}.leases (
            name text PRIMARY KEY,
            term bigint NOT NULL DEFAULT 0,
            holder uuid,
            until timestamptz NOT NULL DEFAULT '-infinity'
        )
    """
    yield (
        f"CREATE FUNCTION {schema}.require_term(lease text, held bigint, by uuid) RETURNS boolean LANGUAGE plpgsql "
        f"SET search_path = pg_catalog AS $fence${_fence(schema)}$fence$"
    )
    yield f"ALTER TABLE {schema}.leases ENABLE ROW LEVEL SECURITY"
    yield from add(schema, leaders)


def add(schema: str, leaders: Mapping[str, str]) -> Iterator[str]:
    """The statements that add these leases, for a later migration."""
    yield f"ALTER TABLE {schema}.leases NO FORCE ROW LEVEL SECURITY"  # or the owner could add no row
    for name, role in leaders.items():
        yield f"INSERT INTO {schema}.leases (name) VALUES ('{name}')"  # noqa: S608  our own names
        for policy in _policies(name, role):
            yield policy.ddl(f"{schema}.leases")
        yield f"GRANT SELECT, UPDATE ({', '.join(_CHANGED)}) ON {schema}.leases TO {role}"
    yield f"ALTER TABLE {schema}.leases FORCE ROW LEVEL SECURITY"


def take(schema: str, seconds: float) -> str:
    """Takes the lease of a name for a holder if it is over. The term, if it was taken; and whether another leads.

    It waits for nobody: while a commit of the last term is on its way the lease is not taken. A lease that ends
    later than one that is renewed now counts as over: the server's clock was set back, or somebody wrote it.
    """
    held = f"until BETWEEN clock_timestamp() AND {_until(2 * seconds)}"
    over = f"SELECT name FROM {schema}.leases WHERE name = $1 AND NOT ({held}) FOR UPDATE SKIP LOCKED"  # noqa: S608
    return f"""
        WITH taken AS (
            UPDATE {schema}.leases SET term = term + 1, holder = $2, until = {_until(seconds)}
            WHERE name = ({over}) AND {SOON} RETURNING term
        )
        SELECT (SELECT term FROM taken) AS term, {held} AS is_led
        FROM {schema}.leases WHERE name = $1
    """  # noqa: S608


def renew(schema: str, seconds: float) -> str:
    """Renews the lease of a name, holder and term; no row means that another one has it."""
    return f"UPDATE {schema}.leases SET until = {_until(seconds)} {_MINE} AND {SOON} RETURNING term"  # noqa: S608


def release(schema: str) -> str:
    """Ends the lease of a name, holder and term, for the next one to take at once."""
    return f"UPDATE {schema}.leases SET holder = NULL, until = clock_timestamp() {_MINE} AND {SOON}"  # noqa: S608


def fence(schema: str, name: str, term: int, holder: uuid.UUID) -> str:
    """The expression that is true in this holder's term, and else refuses the transaction with `TERM_STATE`."""
    return f"{schema}.require_term('{name}', {term}, '{holder}')"


SOON = "set_config('synchronous_commit', 'off', true) IS NOT NULL"
"""A condition that always holds; a statement with it does not wait until its commit has reached the disk.

All about a lease is so. A server that crashes may forget that it was taken, but then also all that was committed in
that term; another holder gets the same term, which is why the fence names both.
"""

_MINE = "WHERE name = $1 AND holder = $2 AND term = $3"


def _until(seconds: float) -> str:
    return f"clock_timestamp() + interval '{seconds} seconds'"


def _policies(name: str, role: str) -> tuple[rls.Policy, rls.Policy]:
    own = f"(name = '{name}'::text)"
    return (
        rls.Policy(f"{name}_select", "select", role, using=own),
        rls.Policy(f"{name}_update", "update", role, using=own, check=own),
    )


def _columns(*names: str) -> dict[str, tuple[str, ...]]:
    return {f"{name}_update": _CHANGED for name in names}


def _fence(schema: str) -> str:
    return _FENCE.format(schema=schema, state=TERM_STATE)
