"""Plans of PostgreSQL: how it finds what a statement of a service asks for."""

from typing import Any

import asyncpg


async def plan_of(connection: asyncpg.Connection, role: str, tenant: str, sql: str, *values: str) -> list[str]:
    """The lines of the plan with which a service's role, bound to a tenant, runs a statement; the values are SQL."""
    await connection.execute(f"SET LOCAL ROLE {role}")
    await connection.execute(f"SET LOCAL app.current_workspace = '{tenant}'")
    await connection.execute(f"PREPARE statement AS {sql}")
    rows: list[Any] = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE statement({', '.join(values)})")
    return [row[0] for row in rows]
