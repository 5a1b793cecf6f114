"""The outboxes of an installation whose log has receipted what other tests left there."""

import asyncpg

from causeloop_common.contracts.topology import OWNERS


async def settle(superuser: asyncpg.Connection) -> None:
    """Mark every row as published and receipted, so that only what follows is late."""
    for owner in OWNERS:
        await superuser.execute(f"UPDATE {owner}.outbox SET published_at = now(), confirmed_batch = 0")
