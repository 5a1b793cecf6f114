"""The start-up proof: the database is compared with the declaration, exactly, and tried."""

from sqlalchemy import MetaData, Table

from causeloop_common.rls.ddl import FUNCTIONS
from causeloop_common.rls.declare import Policy, Protection
from causeloop_common.rls.forms import changed, unknown
from causeloop_common.rls.later import is_later_role, later_tables
from causeloop_common.rls.surroundings import Connection, prove_surroundings

_SHOWN = 10
_UNUSABLE_SEQUENCES = """
    SELECT DISTINCT current_user::text AS role, s.relname::text AS name
    FROM pg_depend d JOIN pg_class s ON s.oid = d.refobjid
    WHERE d.classid = 'pg_attrdef'::regclass AND s.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
      AND CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE false END
"""
"""The sequences that columns take their numbers from, and from which this role may take none."""


class IsolationError(Exception):
    """The database does not isolate tenants as declared; `findings` are full sentences."""

    def __init__(self, service: str, findings: list[str]) -> None:
        shown, more = findings[:_SHOWN], len(findings) - _SHOWN
        rest = f" And {more} more." if more > 0 else ""
        super().__init__(f"{service} refuses to run: tenant isolation is not as declared. {' '.join(shown)}{rest}")
        self.findings = findings


async def prove(connection: Connection, schema: str, metadata: MetaData) -> list[str]:
    """Sentences about all that differs; an empty list is the proof. Runs as the service's role, no tenant set.

    1. the service's roles cannot bypass row security, belong to no role, own nothing, see only their schema and have
       the declared settings; nobody else is a member of them, owns anything of theirs or has a right on it; rows go
       nowhere (`surroundings`);
    2. the schema holds exactly the declared tables, each with row security enabled and forced;
    3. each table has exactly the declared policies: name, verb, role, both expressions;
    4. each table has exactly the declared grants;
    5. the functions the policies and the guard call are ours, to the letter, and none runs as its owner;
    6. each audited table has its commit guard;
    7. columns, constraints and unique indexes are as `causeloop migrate` left them (`forms`);
    8. each readable table, read without a tenant, gives no row (`look`).

    A later version may have added tables, columns, functions, and roles with policies of their own, if all of that is
    protected as this version's is (`later`): it was migrated first, and this version goes on beside it.
    """
    later = await later_tables(connection, schema, sorted(_all_tables(metadata)))
    findings = [
        *await prove_surroundings(connection, schema, metadata),
        *await _prove_tables(connection, schema, metadata, later),
        *await _prove_policies(connection, schema, metadata),
        *await _prove_grants(connection, schema, metadata, later),
        *await _prove_functions(connection, schema, metadata),
        *await _prove_guards(connection, schema, metadata, later),
        *await changed(connection, schema),
        *await unknown(connection, schema, sorted(_all_tables(metadata))),
    ]
    return findings or await _prove_behaviour(connection, metadata)


def _protections(metadata: MetaData) -> dict[str, Protection]:
    return {table.name: table.info["rls"] for table in metadata.sorted_tables}


def _all_tables(metadata: MetaData) -> dict[str, Protection]:
    """The declared tables and their partitions; a partition is protected and granted to nobody."""
    declared = _protections(metadata)
    for table in metadata.sorted_tables:
        for partition in table.info.get("partitions", ()):
            declared[partition] = Protection(
                (), None, (), audited=False, reason="partition, reached through its parent"
            )
    return declared


async def _prove_tables(connection: Connection, schema: str, metadata: MetaData, later: set[str]) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT relname, relkind::text, relrowsecurity AND relforcerowsecurity AS forced FROM pg_class
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND relkind IN ('r', 'p', 'v', 'm', 'f')
        """,
        schema,
    )
    found = {row["relname"]: row for row in rows}
    declared = _all_tables(metadata)
    missing = [f"Table {schema}.{t} is missing: run `causeloop migrate`." for t in declared if t not in found]
    unknown = [
        f"Table or view {schema}.{t} is not declared." for t in sorted(found) if t not in declared and t not in later
    ]
    open_ = [f"Table {schema}.{t} does not force row security." for t in sorted(found) if not found[t]["forced"]]
    return missing + unknown + open_


async def _prove_policies(connection: Connection, schema: str, metadata: MetaData) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT c.relname, p.polname, p.polcmd::text, p.polpermissive,
               ARRAY(SELECT CASE WHEN role = 0 THEN 'public' ELSE pg_get_userbyid(role)::text END
                     FROM unnest(p.polroles) AS role) AS roles,
               pg_get_expr(p.polqual, p.polrelid) AS using, pg_get_expr(p.polwithcheck, p.polrelid) AS check
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
        """,
        schema,
    )
    verbs = {"r": "select", "a": "insert", "w": "update", "d": "delete"}
    found: dict[str, set[Policy]] = {}
    findings = []
    for row in rows:
        policy = Policy(
            row["polname"],
            verbs.get(row["polcmd"], "all"),
            ",".join(row["roles"]),
            _flat(row["using"]),
            _flat(row["check"]),
        )
        found.setdefault(row["relname"], set()).add(policy)
        if not row["polpermissive"]:
            findings.append(f"Policy {policy.name} on {schema}.{row['relname']} is restrictive, none is declared so.")
    for name, protection in _all_tables(metadata).items():
        declared = set(protection.policies(schema))
        here = {p for p in found.get(name, set()) if not is_later_role(p.role, metadata)}
        findings += [
            f"Table {schema}.{name} has a policy that is not declared: {p.name} for {p.verb} to {p.role} "
            f"using ({p.using}) check ({p.check})."
            for p in sorted(here - declared, key=lambda p: p.name)
        ]
        findings += [
            f"Table {schema}.{name} lacks its declared policy {p.name} for {p.verb} to {p.role}."
            for p in sorted(declared - here, key=lambda p: p.name)
        ]
    return findings


async def _prove_grants(connection: Connection, schema: str, metadata: MetaData, later: set[str]) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT c.relname, lower(a.privilege_type) AS verb, NULL::text[] AS columns,
               CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_get_userbyid(a.grantee)::text END AS role
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND c.relkind IN ('r', 'p')
          AND a.grantee <> c.relowner
        UNION ALL
        SELECT c.relname, lower(a.privilege_type), array_agg(t.attname::text ORDER BY t.attname),
               CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_get_userbyid(a.grantee)::text END
        FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
        GROUP BY 1, 2, 4
        """,
        schema,
    )
    columns = {table.name: {column.name for column in table.columns} for table in metadata.sorted_tables}
    found = set()
    for row in rows:
        table, named = row["relname"], row["columns"]
        if table in later or is_later_role(row["role"], metadata):
            continue
        if named is not None and not (named := [name for name in named if name in columns.get(table, named)]):
            continue  # on columns of a later version alone
        found.add((table, row["verb"], ",".join(named) if named is not None else None, row["role"]))
    declared: set[tuple[str, str, str | None, str]] = set()
    for name, protection in _protections(metadata).items():
        for policy in protection.policies(schema):
            allowed = (protection.columns or {}).get(policy.name)
            declared.add((name, policy.verb, ",".join(sorted(allowed)) if allowed else None, policy.role))
    for table in metadata.sorted_tables:
        for partition in table.info.get("partitions", ()):
            declared.add((partition, "truncate", None, f"causeloop_{schema}_relay"))
    extra = [
        f"Role '{g[3]}' has an undeclared right on {schema}.{g[0]}: {g[1]}." for g in sorted(found - declared, key=str)
    ]
    lacking = [f"Role '{g[3]}' lacks its right on {schema}.{g[0]}: {g[1]}." for g in sorted(declared - found, key=str)]
    sequences = await connection.fetch(_UNUSABLE_SEQUENCES, schema)
    numbers = [f"Role '{row['role']}' lacks its right on {schema}.{row['name']}: usage." for row in sequences]
    return extra + lacking + numbers


async def _prove_functions(connection: Connection, schema: str, metadata: MetaData) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT proname, prosecdef, proconfig, coalesce(pg_get_function_sqlbody(oid), prosrc) AS body,
               pg_get_userbyid(proowner) = format('causeloop_%s_owner', $1::text)
               AND proconfig = '{search_path=pg_catalog}' AS is_safe
        FROM pg_proc
        WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
        """,
        schema,
    )
    of_tables = {
        name: body for table in metadata.sorted_tables for name, body in table.info.get("functions", {}).items()
    }
    declared = of_tables | {
        name: f"RETURN (NULLIF(current_setting('{setting}'::text, true), ''::text))::{kind}"
        for name, (setting, kind) in FUNCTIONS.items()
    }
    names = set(declared)
    findings = [f"Function {schema}.{r['proname']} runs with its owner's rights." for r in rows if r["prosecdef"]]
    for row in rows:
        wanted = declared.pop(row["proname"], None)
        if wanted is None and (row["proname"] in names or not row["is_safe"]):
            findings.append(f"Function {schema}.{row['proname']} is not declared.")
        elif wanted is None:
            continue
        elif _flat(wanted) != _flat(row["body"]):
            findings.append(f"Function {schema}.{row['proname']} is not ours: {_flat(row['body'])}.")
        elif row["proconfig"] != (["search_path=pg_catalog"] if row["proname"] in of_tables else None):
            findings.append(f"Function {schema}.{row['proname']} does not have its declared settings.")
    return findings + [f"Function {schema}.{name} is missing." for name in sorted(declared)]


async def _prove_guards(connection: Connection, schema: str, metadata: MetaData, later: set[str]) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT c.relname, t.tgname, t.tgenabled::text AS enabled, t.tgdeferrable AND t.tginitdeferred AS deferred,
               t.tgfoid IN (
                   SELECT oid FROM pg_proc WHERE pronamespace = c.relnamespace AND proname = 'require_event'
               ) AS ours, t.tgtype, t.tgqual IS NULL AS always
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND NOT t.tgisinternal
        """,
        schema,
    )
    row_after_insert_delete_update = 1 | 4 | 8 | 16
    guarded = {
        row["relname"]
        for row in rows
        if row["ours"]
        and row["enabled"] == "O"
        and row["deferred"]
        and row["always"]
        and row["tgtype"] == row_after_insert_delete_update
    }
    wanted = {name for name, protection in _protections(metadata).items() if protection.audited}
    findings = [f"Table {schema}.{name} has no commit guard." for name in sorted(wanted - guarded)]
    findings += [
        f"Table {schema}.{row['relname']} has a trigger that is not declared: {row['tgname']}."
        for row in rows
        if not (row["ours"] and row["relname"] in wanted | later)
    ]
    rules = await connection.fetch("SELECT tablename, rulename FROM pg_rules WHERE schemaname = $1", schema)
    return findings + [
        f"Table {schema}.{r['tablename']} has a rule that is not declared: {r['rulename']}." for r in rules
    ]


async def _prove_behaviour(connection: Connection, metadata: MetaData) -> list[str]:
    readable = [table for table in metadata.sorted_tables if "select" in table.info["rls"].verbs]
    return [
        f"Table {table.fullname} gives rows without a tenant."
        for table in readable
        if await connection.fetch(look(table))
    ]


def look(table: Table) -> str:
    """The statement that looks for a row without a tenant. It begins with the tenant in the table's key, and so ends at
    once however many rows there are; where the service cannot read the key, it looks at the newest rows.
    """
    narrowed = (table.info["rls"].columns or {}).get("tenant_select")
    if narrowed:
        return f"SELECT {narrowed[0]} FROM {table.fullname} WHERE {table.info['newest']} LIMIT 1"  # noqa: S608
    key = ", ".join(table.primary_key.columns.keys())
    return f"SELECT {key} FROM {table.fullname} ORDER BY {key} LIMIT 1"  # noqa: S608


def _flat(text: str | None) -> str | None:
    """White space is PostgreSQL's to choose."""
    return None if text is None else " ".join(text.split())
