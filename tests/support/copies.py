"""An older copy of a service's tables, and its return: what the restore of a database does."""

from typing import Any

import asyncpg

_RELATIONS = """
    SELECT relname, relkind FROM pg_class
    WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'S') ORDER BY relname
"""


class Copy:
    """The tables and sequences of a schema, as they were at one moment. `sql` is a superuser's connection."""

    def __init__(self, schema: str) -> None:
        self._schema = schema

    async def take(self, sql: Any) -> None:
        """Copy them."""
        await sql.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; DROP SCHEMA IF EXISTS copied CASCADE")
        await sql.execute("CREATE SCHEMA copied")
        for name, kind in await self._relations(sql):
            source = f"TABLE {self._schema}.{name}"
            if kind == b"S":
                source = f"SELECT last_value, is_called FROM {self._schema}.{name}"
            await sql.execute(f"CREATE TABLE copied.{name} AS {source}")
        await sql.execute("COMMIT")

    async def put_back(self, sql: Any) -> None:
        """Have the schema's tables be as they were, and forget the copy. No process of the service may run."""
        relations = await self._relations(sql)
        tables = ", ".join(f"{self._schema}.{name}" for name, kind in relations if kind == b"r")
        await sql.execute("BEGIN; SET LOCAL session_replication_role = replica")
        await sql.execute(f"TRUNCATE {tables}")
        for name, kind in relations:
            if kind == b"r":
                await sql.execute(
                    f"INSERT INTO {self._schema}.{name} OVERRIDING SYSTEM VALUE SELECT * FROM copied.{name}"
                )
            else:
                await sql.execute(f"SELECT setval('{self._schema}.{name}', last_value, is_called) FROM copied.{name}")
        await sql.execute("DROP SCHEMA copied CASCADE; COMMIT")

    async def _relations(self, sql: asyncpg.Connection) -> list[tuple[str, bytes]]:
        return [(row["relname"], row["relkind"]) for row in await sql.fetch(_RELATIONS, self._schema)]
