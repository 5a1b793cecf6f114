"""Everything that could stop a migration, looked at before it begins: a sentence for each, with the way to mend it."""

from collections.abc import Sequence
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory

from causeloop_common import rls
from causeloop_common.migrations.passwords import Passwords
from causeloop_common.migrations.roles import Schema

_ABOUT = """
    SELECT current_user::text AS me, current_database()::text AS database, m.rolsuper OR m.rolcreaterole AS makes_roles,
           current_setting('transaction_read_only') = 'on' AS reads_only,
           pg_has_role(current_user, d.datdba, 'USAGE') AS owns, pg_get_userbyid(d.datdba)::text AS owner
    FROM pg_roles m, pg_database d WHERE m.rolname = current_user AND d.datname = current_database()
"""
_THERE = """
    SELECT rolname::text AS role, NOT rolcanlogin OR coalesce(rolvaliduntil <= now(), false) AS is_locked
    FROM pg_roles WHERE rolname = ANY($1) ORDER BY 1
"""
_FOREIGN_ROLES = """
    SELECT rolname::text AS role FROM pg_roles
    WHERE rolname = ANY($1) AND NOT pg_has_role(current_user, oid, 'USAGE WITH ADMIN OPTION') ORDER BY 1
"""
_ELSEWHERE = """
    SELECT DISTINCT d.datname::text AS database FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
    JOIN pg_database d ON d.oid = CASE WHEN s.classid = 'pg_database'::regclass THEN s.objid ELSE s.dbid END
    WHERE s.refclassid = 'pg_authid'::regclass AND r.rolname = ANY($1) AND d.datname <> current_database() ORDER BY 1
"""
_SCHEMAS = """
    SELECT nspname::text AS name, pg_get_userbyid(nspowner)::text AS owner,
           pg_has_role(current_user, nspowner, 'USAGE') AS is_ours,
           EXISTS (SELECT FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE grantee = 0) AS is_open
    FROM pg_namespace WHERE nspname = ANY($1)
"""


async def preflight(connection: Any, passwords: Passwords, schemas: Sequence[Schema]) -> list[str]:
    """Sentences about all that would stop the migration, or let it succeed in vain or lock the services out."""
    about = await connection.fetchrow(_ABOUT)
    me, database = about["me"], about["database"]
    if about["reads_only"]:
        return ["The database accepts no writes: connect to its primary, or end its read-only mode."]
    if me in {role for schema in schemas for role in (schema.owner, *rls.roles(schema.tables))}:
        return [f"DATABASE_URL is the address of {me}, a service's role: use the migrator's, which owns the database."]
    if not about["owns"]:
        whose = f"the database {database}, which belongs to {about['owner']}"
        return [f"The role {me} does not own {whose}: name Causeloop's own database and its owner in DATABASE_URL."]
    if not about["makes_roles"]:
        return [f"The role {me} may not create roles: ALTER ROLE {me} CREATEROLE."]
    return [
        *await _about_roles(connection, me, passwords, schemas),
        *await _about_schemas(connection, schemas),
        *await _about_forms(connection, schemas),
        *await _about_revisions(connection, schemas),
    ]


async def _about_roles(connection: Any, me: str, passwords: Passwords, schemas: Sequence[Schema]) -> list[str]:
    logins = [role for schema in schemas for role in rls.roles(schema.tables)]
    names = [*logins, *(schema.owner for schema in schemas)]
    elsewhere = [row["database"] for row in await connection.fetch(_ELSEWHERE, names)]
    foreign = [row["role"] for row in await connection.fetch(_FOREIGN_ROLES, names)]
    there = await connection.fetch(_THERE, logins)
    if there and all(row["is_locked"] for row in there) and not passwords.replaced:
        locked = f"ALTER ROLE {there[0]['role']} LOGIN VALID UNTIL 'infinity'"
        return [f"All roles are locked, so whether JWT_SECRET is this installation's cannot be seen: {locked}."]
    refusal = await passwords.refusal([row["role"] for row in there])
    if elsewhere and (foreign or refusal):
        other = f"another installation, in the database {elsewhere[0]}, whose passwords would be replaced"
        return [f"Causeloop's roles on this server belong to {other}: use another server, or that one's JWT_SECRET."]
    if foreign:
        grant = f"GRANT {foreign[0]} TO {me} WITH ADMIN OPTION"
        return [f"The role {foreign[0]} is there, and {me} may not change it: {grant}."]
    return [refusal] if refusal else []


async def _about_schemas(connection: Any, schemas: Sequence[Schema]) -> list[str]:
    owners = {schema.name: schema.owner for schema in schemas}
    findings = []
    for row in await connection.fetch(_SCHEMAS, [*owners, "migrations", "public"]):
        name, owner = row["name"], row["owner"]
        if name == "public":
            if row["is_open"] and not row["is_ours"]:
                findings.append("Everybody has rights on the schema public: REVOKE ALL ON SCHEMA public FROM PUBLIC.")
        elif name == "migrations":
            if not row["is_ours"]:
                findings.append(f"The schema migrations belongs to {owner}: use a database of Causeloop's own.")
        elif owner != owners[name]:
            findings.append(
                f"The schema {name} is there and belongs to {owner}: use a database of Causeloop's own, or, if it is "
                f"Causeloop's restored, give it and all in it back to {owners[name]}."
            )
    return findings


async def _about_forms(connection: Any, schemas: Sequence[Schema]) -> list[str]:
    """The changes since the last run, before this one keeps them as its own."""
    return [
        f"Since the last `causeloop migrate`, {finding.removesuffix('.')}. Put that back; or, if it is meant, remove "
        "the table's comment, which has its form."
        for schema in schemas
        for finding in await rls.changed(connection, schema.name)
    ]


async def _about_revisions(connection: Any, schemas: Sequence[Schema]) -> list[str]:
    findings = []
    for schema in schemas:
        if await connection.fetchval("SELECT to_regclass($1)", f"migrations.{schema.name}") is None:
            continue
        config = Config()
        config.set_main_option("script_location", str(schema.folder))
        config.set_main_option("path_separator", "os")
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        rows = await connection.fetch(f"SELECT version_num FROM migrations.{schema.name}")  # noqa: S608
        findings += [
            f"The schema {schema.name} is at revision {row['version_num']}, which this version does not have: a later "
            "version migrated it, so use that one."
            for row in rows
            if row["version_num"] not in known
        ]
    return findings
