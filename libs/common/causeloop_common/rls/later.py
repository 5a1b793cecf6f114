"""The part of the proof about what a later version's migrations added: unknown here, and protected or not.

Expand, then contract: migrations of a version run while processes of the one before still serve. A table that such a
process does not know does it no harm as long as it is protected: owned by the schema's owner, row security forced,
shown to the service's role by the tenant alone, and to nobody but the service's roles in any way.
"""

import re

from sqlalchemy import MetaData

from causeloop_common.rls.declare import roles, tenant
from causeloop_common.rls.surroundings import Connection, ours

_PROTECTED = """
    SELECT c.relname::text AS name FROM pg_class c
    WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') AND c.relname <> ALL ($2)
      AND c.relrowsecurity AND c.relforcerowsecurity
      AND pg_get_userbyid(c.relowner) = format('causeloop_%s_owner', $1::text)
      AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid)
      AND NOT EXISTS (
          SELECT FROM pg_policy p, unnest(p.polroles) AS role
          WHERE p.polrelid = c.oid AND (NOT p.polpermissive OR role = 0 OR pg_get_userbyid(role) !~ $3))
      AND NOT EXISTS (
          SELECT FROM (
              SELECT * FROM aclexplode(c.relacl)
              UNION ALL
              SELECT a.* FROM pg_attribute t, aclexplode(t.attacl) AS a WHERE t.attrelid = c.oid
          ) AS acl
          WHERE acl.grantee <> c.relowner AND (
              acl.is_grantable OR acl.grantee = 0 OR pg_get_userbyid(acl.grantee) !~ $3
              OR acl.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
              AND NOT (acl.privilege_type = 'TRUNCATE' AND pg_get_userbyid(acl.grantee) ~ '_relay$')))
"""
_SHOWN = """
    SELECT c.relname::text AS name, pg_get_expr(p.polqual, p.polrelid) AS using,
           pg_get_expr(p.polwithcheck, p.polrelid) AS check
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
    WHERE c.relnamespace = to_regnamespace($1) AND c.relname = ANY ($2) AND to_regrole($3)::oid = ANY (p.polroles)
"""


async def later_tables(connection: Connection, schema: str, declared: list[str]) -> set[str]:
    """The tables that this version does not declare, and that are protected all the same."""
    found = {row["name"] for row in await connection.fetch(_PROTECTED, schema, declared, ours(schema))}
    own = f"(workspace_id = {tenant(schema)})"
    for row in await connection.fetch(_SHOWN, schema, sorted(found), f"causeloop_{schema}"):
        clauses = {" ".join(clause.split()) for clause in (row["using"], row["check"]) if clause is not None}
        if clauses != {own}:
            found.discard(row["name"])
    return found


def is_later_role(role: str, metadata: MetaData) -> bool:
    """Whether a role is one of this service's that this version does not know."""
    schema = str(metadata.schema)
    known = {*roles(metadata), f"causeloop_{schema}_owner"}
    return role not in known and re.match(ours(schema), role) is not None
