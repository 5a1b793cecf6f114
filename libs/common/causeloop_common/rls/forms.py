"""The form of a service's tables as `causeloop migrate` leaves them: columns, constraints, unique indexes, numbers.

A statement of ours needs it: without a column it fails, without a constraint it stores what no reader takes, and one
that somebody added by hand may refuse each row. Policies and grants follow from the models, a form from all migrations
until now, those of a later version among them. So it is kept where it is made: `migrate` writes it into each table's
comment, and the proof compares. It is written as one major version of PostgreSQL prints it; another one's is not
compared, until `migrate` has run there.
"""

from collections.abc import Sequence

from causeloop_common.rls.surroundings import Connection

_MARK = "As `causeloop migrate` made it"
_HEAD = f"format('{_MARK} (form 1, PostgreSQL %s):', current_setting('server_version_num')::int / 10000)"
_SETTINGS = {
    "search_path": "pg_catalog", "TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres",
    "extra_float_digits": "1", "quote_all_identifiers": "off",
}  # fmt: skip
"""The settings by which PostgreSQL prints expressions, for the transaction; for the statement where there is none."""
_FIXED = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())
_FORMS = f"""
    WITH fixed AS MATERIALIZED (SELECT {_FIXED})
    SELECT c.relname::text AS name, obj_description(c.oid, 'pg_class') AS kept, {_HEAD} AS head, ARRAY(
        SELECT line FROM (
            SELECT 1, attnum::text, format('column %s %s%s%s%s', attname, format_type(atttypid, atttypmod),
                   CASE WHEN attnotnull THEN ' NOT NULL' END, ' DEFAULT ' || pg_get_expr(adbin, adrelid),
                   CASE WHEN attidentity <> '' THEN ' IDENTITY' END)
            FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND c.relkind <> 'S'
            UNION ALL
            SELECT 2, conname, format('constraint %s %s', conname, pg_get_constraintdef(oid))
            FROM pg_constraint WHERE conrelid = c.oid AND contype IN ('c', 'p', 'u', 'f', 'x')
            UNION ALL
            SELECT 3, n.relname, format('index %s%s', pg_get_indexdef(i.indexrelid),
                   CASE WHEN NOT (indisvalid AND indisready) THEN ' INVALID' END)
            FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisunique
            UNION ALL
            SELECT 4, '', 'partition ' || pg_get_expr(c.relpartbound, c.oid) WHERE c.relispartition
            UNION ALL
            SELECT 5, '', 'not logged' WHERE c.relpersistence <> 'p'
            UNION ALL
            SELECT 6, '', format('some constraints are not enforced: %s triggers are off', count(*))
            FROM pg_trigger WHERE tgrelid = c.oid AND tgisinternal AND tgenabled <> 'O' HAVING count(*) > 0
            UNION ALL
            SELECT 7, '', format('numbers from %s to %s by %s%s', seqmin, seqmax, seqincrement,
                   CASE WHEN seqcycle THEN ', again and again' END)
            FROM pg_sequence WHERE seqrelid = c.oid
        ) AS part (kind, place, line) ORDER BY kind, length(place), place COLLATE "C"
    ) AS lines
    FROM fixed, pg_class c
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = SCHEMA) AND c.relkind IN ('r', 'p', 'S')
"""  # noqa: S608  our own names
_KEPT = """
    SELECT relname::text AS name, obj_description(oid, 'pg_class') AS kept FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND (relkind = 'S' OR relname = ANY ($2))
    ORDER BY 1
"""
_SHOWN = 300


def note(schema: str) -> str:
    """The statement that keeps the form of each table of a schema, for its owner."""
    forms = _FORMS.replace("SCHEMA", f"'{schema}'")
    return f"""
        DO $note$ DECLARE one record; BEGIN
            FOR one IN {forms} LOOP
                EXECUTE format('COMMENT ON %s {schema}.%I IS %L',
                    CASE WHEN to_regclass(format('{schema}.%I', one.name)) IN (SELECT seqrelid FROM pg_sequence)
                         THEN 'SEQUENCE' ELSE 'TABLE' END,
                    one.name, array_to_string(one.head || one.lines, E'\\n'));
            END LOOP;
        END $note$
    """  # noqa: S608


async def changed(connection: Connection, schema: str) -> list[str]:
    """Sentences about what is not as `note` kept it."""
    findings = []
    for row in await connection.fetch(_FORMS.replace("SCHEMA", "$1"), schema):
        head, *kept = (row["kept"] or "").split("\n")
        if head == row["head"]:
            findings += [f"{schema}.{row['name']} lacks: {_shown(line)}." for line in _without(kept, row["lines"])]
            findings += [f"{schema}.{row['name']} was given: {_shown(line)}." for line in _without(row["lines"], kept)]
    return findings


async def unknown(connection: Connection, schema: str, tables: Sequence[str]) -> list[str]:
    """Sentences about those of these tables whose form was never kept, or whose comment somebody replaced."""
    rows = await connection.fetch(_KEPT, schema, tables)
    return [
        f"The form of {schema}.{row['name']} is not known: run `causeloop migrate`."
        for row in rows
        if not (row["kept"] or "").startswith(_MARK)
    ]


def _without(lines: Sequence[str], others: Sequence[str]) -> list[str]:
    known = set(others)
    return [line for line in lines if line not in known]


def _shown(line: str) -> str:
    flat = " ".join(line.split())
    return flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}…"
