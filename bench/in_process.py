"""The row `rls_transaction`: a tenant-bound read, ours and by hand, eight at a time, turn by turn in one process."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import uvloop

from bench.run import Effort, interleaved
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.database import Database
from causeloop_common.statements import Statement
from causeloop_vault.models import metadata

WORKERS = 8
SQL = "SELECT id, path, version FROM vault.secrets WHERE path = $1"


class _Bare(asyncpg.Connection):
    """Without the pool's reset query: what a careful hand would write, since every setting is local."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


def transactions(dsn: str, effort: Effort) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rates of both, turn by turn."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        database = Database(dsn, "vault", metadata, workers=WORKERS)
        runner.run(database.start())
        pool = runner.run(_pool(dsn))
        ctx = AuthContext(tenant=ids.new("ws"), principal=ids.realm("bench", "bench"), permissions=frozenset())
        statement = Statement.raw(SQL, "path")
        begin = f"BEGIN; SET LOCAL app.current_workspace = '{ctx.tenant_uuid}'"

        async def ours() -> None:
            async with database.reading(ctx) as tx:
                await tx.fetchrow(statement, path="bench/one")

        async def by_hand() -> None:
            async with pool.acquire() as connection:
                await connection.execute(begin)
                try:
                    await connection.fetchrow(SQL, "bench/one")
                except BaseException:
                    await connection.execute("ROLLBACK")
                    raise
                await connection.execute("COMMIT")

        found = interleaved(
            lambda: runner.run(_rate(ours, effort.seconds)),
            lambda: runner.run(_rate(by_hand, effort.seconds)),
            effort.rounds,
        )
        runner.run(database.stop())
        runner.run(pool.close())
    return found


async def _pool(dsn: str) -> Any:
    return await asyncpg.create_pool(dsn, min_size=WORKERS, max_size=WORKERS, connection_class=_Bare)


async def _rate(once: Callable[[], Awaitable[None]], seconds: float) -> dict[str, Any]:
    count = 0
    started = time.perf_counter()

    async def work() -> None:
        nonlocal count
        while time.perf_counter() - started < seconds:
            await once()
            count += 1

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return {"rate": count / (time.perf_counter() - started)}
