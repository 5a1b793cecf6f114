"""The statements that make a declaration real, for migrations: row security, policies, grants, the commit guard."""

from collections.abc import Iterable, Iterator, Mapping

from causeloop_common.rls.declare import PERSON_SETTING, TENANT_SETTING, VERBS, Policy, Protection

GUARD_STATE = "CL001"
"""SQLSTATE of the commit guard's refusal."""

FUNCTIONS = {
    "app_current_tenant": (TENANT_SETTING, "uuid"),
    "app_current_person": (PERSON_SETTING, "uuid"),
}
GUARD_BODY = """
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM {schema}.outbox
        WHERE xid = pg_catalog.pg_current_xact_id()
          AND workspace_id = coalesce(NEW.workspace_id, OLD.workspace_id)
    ) OR (TG_OP = 'UPDATE' AND NEW.workspace_id IS DISTINCT FROM OLD.workspace_id) THEN
        RAISE EXCEPTION 'tenant data of {schema}.% changed without an event', TG_TABLE_NAME USING ERRCODE = '{state}';
    END IF;
    RETURN NULL;
END
"""


def functions_ddl(schema: str) -> Iterator[str]:
    """The functions that read the two settings. An empty text is what a custom setting reads as after a transaction."""
    for name, (setting, kind) in FUNCTIONS.items():
        yield (
            f"CREATE FUNCTION {schema}.{name}() RETURNS {kind} LANGUAGE sql STABLE PARALLEL SAFE "
            f"RETURN (NULLIF(current_setting('{setting}'::text, true), ''::text))::{kind}"
        )


def guard_ddl(schema: str) -> str:
    """The commit guard's function, made or brought up to date; needs the outbox."""
    return (
        f"CREATE OR REPLACE FUNCTION {schema}.require_event() RETURNS trigger LANGUAGE plpgsql "
        f"SET search_path = pg_catalog AS $guard${guard_body(schema)}$guard$"
    )


def guard_body(schema: str) -> str:
    """The body of the commit guard's function; a schema with an outbox has it."""
    return GUARD_BODY.format(schema=schema, state=GUARD_STATE)


def protect(
    schema: str,
    table: str,
    *verbs: str,
    columns: Mapping[str, tuple[str, ...]] | None = None,
    extra: Iterable[Policy] = (),
    audited: bool = True,
    reason: str | None = None,
) -> Iterator[str]:
    """The statements that protect one table, for a migration: RLS, policies, grants, the commit guard."""
    yield from _statements(
        schema, table, Protection(verbs or VERBS, columns, tuple(extra), audited=audited, reason=reason)
    )


def protect_from_service(schema: str, table: str, *extra: Policy, reason: str) -> Iterator[str]:
    """The statements for a table that only other roles may touch."""
    yield from _statements(schema, table, Protection((), None, extra, audited=False, reason=reason))


def allow(schema: str, table: str, verb: str, *columns: str) -> Iterator[str]:
    """The statements that give the service one more verb on a protected table, for a migration; on `columns` alone, if
    any are named.
    """
    yield from _permits(schema, table, Protection((verb,), {f"tenant_{verb}": columns}))


def narrow(schema: str, table: str, role: str, *columns: str) -> Iterator[str]:
    """The statements that leave a role the update of some columns alone, for a later migration than the table's."""
    yield f"REVOKE UPDATE ON {schema}.{table} FROM {role}"
    yield f"GRANT UPDATE ({', '.join(columns)}) ON {schema}.{table} TO {role}"


def _statements(schema: str, table: str, protection: Protection) -> Iterator[str]:
    name = f"{schema}.{table}"
    yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
    yield from _permits(schema, table, protection)
    if protection.audited:
        yield (
            f"CREATE CONSTRAINT TRIGGER require_event AFTER INSERT OR UPDATE OR DELETE ON {name} "
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.require_event()"
        )


def _permits(schema: str, table: str, protection: Protection) -> Iterator[str]:
    name, columns = f"{schema}.{table}", protection.columns or {}
    for policy in protection.policies(schema):
        yield policy.ddl(name)
        allowed = columns.get(policy.name)
        grant = f"{policy.verb.upper()} ({', '.join(allowed)})" if allowed else policy.verb.upper()
        yield f"GRANT {grant} ON {name} TO {policy.role}"
