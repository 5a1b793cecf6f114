"""Moments that are too short to aim at, made long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.stack import Stack, until


@asynccontextmanager
async def commits_without_saying_so(stack: Stack) -> AsyncIterator[None]:
    """Every commit waits for the word of a standby that is not there."""
    async with stack.sql() as sql:
        await sql.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await sql.execute("SELECT pg_reload_conf()")
        try:
            await until("commits wait", lambda: _commit_waits(stack))
            yield
        finally:
            await sql.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await sql.execute("SELECT pg_reload_conf()")


async def _commit_waits(stack: Stack) -> bool:
    """Whether the server has read its new setting, tried with a commit of nothing."""
    async with stack.sql() as sql:
        try:
            await sql.fetchval("SELECT pg_logical_emit_message(true, 'chaos', 'waits')", timeout=0.1)
        except TimeoutError:
            return True
    return False


async def has_committed(stack: Stack, role: str) -> bool:
    """Whether a commit of this role is done and its answer waits."""
    async with stack.sql() as sql:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event = 'SyncRep'"
        return bool(await sql.fetchval(waiting, role))


async def answer_commit(stack: Stack, role: str) -> None:
    """Wait for a commit of this role whose answer waits, and have the server send that answer."""
    await until("a commit waits", lambda: has_committed(stack, role))
    async with stack.sql() as sql:
        waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND wait_event = 'SyncRep'"
        await sql.execute(waiting, role)
