"""The part of the proof about all that is around the tables: roles and their members, owners, rights, ways out.

An owner decides about its tables, and a member of a role has its rights, so both ends of each membership are compared,
every owner, and every right that somebody besides our roles has on schema and database.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from sqlalchemy import MetaData

from causeloop_common.rls.declare import ROLE_SETTINGS, roles


class Connection(Protocol):
    """A connection, as far as the proof uses it: rows of a statement."""

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows."""
        ...


_ME = """
    SELECT current_user::text AS role, current_setting('session_replication_role') AS replication,
           datallowconn AND datconnlimit <> 0 AS takes
    FROM pg_database WHERE datname = current_database()
"""
_POWERS = {
    "rolsuper": "is a superuser",
    "rolbypassrls": "can bypass row security",
    "rolcreaterole": "can create roles",
    "rolcreatedb": "can create databases",
    "rolreplication": "can replicate",
}
_FEWEST_CONNECTIONS = 2
_ROLES = """
    SELECT r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolcanlogin,
           r.rolconnlimit, coalesce(r.rolvaliduntil <= now(), false) AS is_over,
           has_database_privilege(r.oid, current_database(), 'CONNECT') AS connects,
           has_schema_privilege(r.oid, to_regnamespace($2)::oid, 'USAGE') AS uses,
           ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                 WHERE m.member = r.oid) AS member_of,
           ARRAY(SELECT n.nspname::text FROM pg_namespace n
                 WHERE n.nspname NOT IN ($2, 'pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
                 AND has_schema_privilege(r.oid, n.oid, 'USAGE')) AS sees,
           ARRAY(SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname NOT LIKE 'pg\\_%'
                 AND has_schema_privilege(r.oid, n.oid, 'CREATE')) AS creates
    FROM pg_roles r WHERE r.rolname = ANY($1)
"""
# A role of the database's owner may act as the owners of schemas, for migrations; who made a role administers it.
_MEMBERS = """
    SELECT DISTINCT g.rolname::text AS role, m.rolname::text AS member
    FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
    WHERE g.rolname = ANY($1) AND NOT (
        pg_has_role(m.oid, (SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')
        AND (g.rolname = $2 OR NOT (a.inherit_option OR a.set_option))
    )
"""
_SETTINGS = """
    SELECT coalesce(r.rolname::text, '') AS role, s.setdatabase <> 0 AS here, split_part(setting, '=', 1) AS name,
           substr(setting, strpos(setting, '=') + 1) AS value
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) AS setting
    WHERE (s.setrole = 0 OR r.rolname = ANY($1))
      AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
_FOR_EVERYBODY = frozenset(
    {
        "session_replication_role", "row_security", "search_path", "role", "default_transaction_read_only",
        "default_transaction_isolation", "synchronous_commit",
    }
)  # fmt: skip
"""The settings that nobody may make for all roles; for a role of ours, only the declared ones are made."""
_OWNED = """
    SELECT r.rolname::text AS role, o.type, o.identity FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid,
           pg_identify_object(s.classid, s.objid, 0) AS o
    WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o' AND r.rolname = ANY($1)
      AND s.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND NOT (r.rolname = $2 AND (o.schema = $3 OR o.identity IN ($3, 'migrations.' || $3)))
"""
_FOREIGN_OWNERS = """
    SELECT 'schema ' || nspname AS what, pg_get_userbyid(nspowner)::text AS owner FROM pg_namespace
    WHERE nspname = $1 AND pg_get_userbyid(nspowner) <> $2
    UNION ALL
    SELECT format('%s.%s', $1::text, relname), pg_get_userbyid(relowner)::text FROM pg_class
    WHERE relnamespace = to_regnamespace($1) AND relkind <> 'i' AND pg_get_userbyid(relowner) <> $2
    UNION ALL
    SELECT format('function %s.%s', $1::text, proname), pg_get_userbyid(proowner)::text FROM pg_proc
    WHERE pronamespace = to_regnamespace($1) AND pg_get_userbyid(proowner) <> $2
    ORDER BY 1
"""
# Everybody, CONNECT apart, and all who could pass on a right; the database's owner decides about it anyhow.
_RIGHTS = """
    WITH acl AS (
        SELECT 'the database' AS what, datdba AS owner, a.* FROM pg_database,
               aclexplode(coalesce(datacl, acldefault('d', datdba))) AS a WHERE datname = current_database()
        UNION ALL
        SELECT 'the schema ' || nspname, nspowner, a.* FROM pg_namespace,
               aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS a WHERE nspname = $1
        UNION ALL
        SELECT format('%s.%s', $1::text, relname), relowner, a.* FROM pg_class, aclexplode(relacl) AS a
        WHERE relnamespace = to_regnamespace($1) AND (relkind = 'S' OR a.is_grantable)
        UNION ALL
        SELECT 'the parameter ' || parname, NULL::oid, a.* FROM pg_parameter_acl, aclexplode(paracl) AS a
        WHERE a.grantee = 0 OR pg_get_userbyid(a.grantee) = ANY($2)
    )
    SELECT what, lower(privilege_type) AS verb, is_grantable,
           CASE WHEN grantee = 0 THEN 'public' ELSE pg_get_userbyid(grantee)::text END AS role
    FROM acl WHERE grantee IS DISTINCT FROM owner AND (
        is_grantable OR grantee = 0 OR what LIKE 'the parameter %'
        OR (what = 'the database' AND privilege_type <> 'CONNECT' AND (
            privilege_type = 'CREATE' OR pg_get_userbyid(grantee) = ANY($2)))
        OR (what LIKE 'the schema %' AND NOT (privilege_type = 'USAGE' AND pg_get_userbyid(grantee) ~ $3))
        OR (what NOT LIKE 'the %' AND pg_get_userbyid(grantee) !~ $3)
    ) ORDER BY 1, 2, 4
"""
_WAYS_OUT = """
    SELECT format('The publication %s sends rows of the schema %s out.', pubname, $1::text) AS finding
    FROM pg_publication p WHERE puballtables
       OR EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = to_regnamespace($1))
       OR EXISTS (SELECT FROM pg_publication_rel l JOIN pg_class c ON c.oid = l.prrelid
                  WHERE l.prpubid = p.oid AND c.relnamespace = to_regnamespace($1))
    UNION ALL
    SELECT format('A subscription writes to the table %s.', s.srrelid::regclass)
    FROM pg_subscription_rel s JOIN pg_class c ON c.oid = s.srrelid WHERE c.relnamespace = to_regnamespace($1)
    UNION ALL
    SELECT format('The table %s inherits from %s, and lies outside of its schema.', c.oid::regclass, p.oid::regclass)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE (p.relnamespace = to_regnamespace($1)) <> (c.relnamespace = to_regnamespace($1))
    UNION ALL
    SELECT format('The constraint %s of %s refers to a table of %s.', k.conname, k.conrelid::regclass, $1::text)
    FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid JOIN pg_class c ON c.oid = k.conrelid
    WHERE f.relnamespace = to_regnamespace($1) AND c.relnamespace <> f.relnamespace
    UNION ALL
    SELECT format('Default privileges give rights on new objects of %s: revoke them.', $1::text)
    FROM pg_default_acl WHERE defaclnamespace = to_regnamespace($1) OR pg_get_userbyid(defaclrole) = $2
    ORDER BY 1
"""


def ours(schema: str) -> str:
    """The regular expression of the names that this service's roles have, in later versions too."""
    return f"^causeloop_{schema}(_[a-z_]+)?$"


async def prove_surroundings(connection: Connection, schema: str, metadata: MetaData) -> list[str]:
    """Sentences about roles, memberships, settings, owners, rights and ways out that are not as declared."""
    own, owner = roles(metadata), f"causeloop_{schema}_owner"
    (me,) = await connection.fetch(_ME)
    findings = []
    if me["role"] != f"causeloop_{schema}":
        findings.append(f"The service is logged in as '{me['role']}', not as 'causeloop_{schema}'.")
    if not me["takes"]:
        findings.append("The database takes no new connections (ALLOW_CONNECTIONS, CONNECTION LIMIT).")
    if me["replication"] != "origin":
        findings.append("Triggers do not fire in this session: session_replication_role is not 'origin'.")
    later = await connection.fetch("SELECT rolname::text AS role FROM pg_roles WHERE rolname ~ $1", ours(schema))
    names = sorted({*own, owner, me["role"], *(row["role"] for row in later)})
    return [
        *findings,
        *await _prove_roles(connection, names, schema, own),
        *await _prove_memberships(connection, names, owner),
        *await _prove_settings(connection, own, owner),
        *await _prove_owners(connection, [*own, owner], owner, schema),
        *await _prove_rights(connection, names, schema),
        *[row["finding"] for row in await connection.fetch(_WAYS_OUT, schema, owner)],
    ]


async def _prove_roles(connection: Connection, names: list[str], schema: str, own: tuple[str, ...]) -> list[str]:
    findings = []
    for row in await connection.fetch(_ROLES, names, schema):
        role = row["rolname"]
        findings += [f"Role '{role}' {what}." for power, what in _POWERS.items() if row[power]]
        if row["member_of"]:
            findings.append(f"Role '{role}' is a member of {', '.join(row['member_of'])}.")
        if role.endswith("_owner"):
            if row["rolcanlogin"]:
                findings.append(f"Role '{role}' can log in.")
            continue
        if role in own:
            findings += [f"Role '{role}' {what}: run `causeloop migrate`." for what in _locked_out(row)]
        if row["sees"]:
            findings.append(f"Role '{role}' has rights on the schema {', '.join(row['sees'])}.")
        if row["creates"]:
            findings.append(f"Role '{role}' can create in the schema {', '.join(row['creates'])}.")
    return findings


def _locked_out(row: Any) -> Iterator[str]:
    """Why a login role is not let in any more. The connections that it has go on, so nothing else shows it."""
    if not row["rolcanlogin"]:
        yield "cannot log in"
    if row["is_over"]:
        yield "has a password whose time is over (VALID UNTIL)"
    if not row["connects"]:
        yield "may not connect to the database"
    if not row["uses"]:
        yield "may not use its schema"
    if row["rolconnlimit"] < 0:
        yield "may open all connections of the server"
    elif row["rolconnlimit"] < _FEWEST_CONNECTIONS:
        yield f"may open {row['rolconnlimit']} connections"


async def _prove_memberships(connection: Connection, names: list[str], owner: str) -> list[str]:
    rows = await connection.fetch(_MEMBERS, names, owner)
    return [f"Role '{row['member']}' is a member of '{row['role']}': revoke that." for row in rows]


async def _prove_settings(connection: Connection, own: tuple[str, ...], owner: str) -> list[str]:
    rows = await connection.fetch(_SETTINGS, [*own, owner])
    found = {(r["role"], r["name"], r["value"]) for r in rows if r["role"] and not r["here"]}
    declared = {(role, name, value) for role in own for name, value in ROLE_SETTINGS.items()}
    made = [(r["role"], r["name"]) for r in rows if r["role"] and r["here"]]
    made += [(role, name) for role, name, _ in sorted(found - declared)]
    findings = [f"The setting '{name}' of {role} is made in the database: reset it." for role, name in made]
    findings += [
        f"The setting '{row['name']}' of every role is made in the database: reset it."
        for row in rows
        if not row["role"] and (row["name"] in _FOR_EVERYBODY or row["name"].startswith("app."))
    ]
    lacking = sorted({role for role, _, _ in declared - found})
    return findings + [f"Role '{role}' lacks its declared settings: run `causeloop migrate`." for role in lacking]


async def _prove_owners(connection: Connection, names: list[str], owner: str, schema: str) -> list[str]:
    owned = await connection.fetch(_OWNED, names, owner, schema)
    foreign = await connection.fetch(_FOREIGN_OWNERS, schema, owner)
    return [f"Role '{row['role']}' owns {row['identity']} ({row['type']})." for row in owned] + [
        f"The owner of {row['what']} is '{row['owner']}', not '{owner}'." for row in foreign
    ]


async def _prove_rights(connection: Connection, names: list[str], schema: str) -> list[str]:
    rows = await connection.fetch(_RIGHTS, schema, names, ours(schema))
    return [
        f"Role '{row['role']}' has an undeclared right on {row['what']}: {row['verb']}"
        f"{', which it can pass on' if row['is_grantable'] else ''}."
        for row in rows
    ]
