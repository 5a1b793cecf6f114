"""A leader that leaves a trace: it numbers its commits, each with its term, in the order in which they are committed.

    python -m chaos.ledger DSN

A row that every transaction counts up is locked until the commit, so the numbers are those of the commits. Between its
last statement and its commit each transaction rests for a moment: that is where a signal to stop often finds it.
"""

import asyncio
import os
import sys
from collections.abc import Iterator

from causeloop_common import leases
from causeloop_common.database import role_connections
from causeloop_common.leader import Leader, Work

ROLE = "causeloop_ledger"
REST_SECONDS = 0.01

_COUNT = "UPDATE ledger.head SET n = n + 1 RETURNING n"
_ENTER = "INSERT INTO ledger.entries VALUES ($1, $2, $3)"


def ddl(password: str) -> Iterator[str]:
    """The statements that make its schema, for a superuser."""
    yield f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'"
    yield "CREATE SCHEMA ledger"
    yield "CREATE TABLE ledger.head (n bigint NOT NULL)"
    yield "INSERT INTO ledger.head VALUES (0)"
    yield "CREATE TABLE ledger.entries (n bigint PRIMARY KEY, term bigint NOT NULL, pid integer NOT NULL)"
    yield from leases.ddl("ledger", {"ledger": ROLE})
    yield f"GRANT CONNECT ON DATABASE causeloop TO {ROLE}"
    yield f"GRANT USAGE ON SCHEMA ledger TO {ROLE}"
    yield f"GRANT SELECT, UPDATE ON ledger.head TO {ROLE}"
    yield f"GRANT INSERT ON ledger.entries TO {ROLE}"


class Ledger(Work):
    """Commits as often as it can."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    async def lead(self) -> None:
        """Commit until cancelled."""
        while True:
            term = self._leader.term
            async with self._leader.transaction() as connection:
                n = await connection.fetchval(_COUNT)
                await connection.execute(_ENTER, n, term, os.getpid())
                await asyncio.sleep(REST_SECONDS)


async def main(dsn: str) -> None:
    """Lead, or stand by, until the process ends."""
    leader = Leader(role_connections(dsn, ROLE), "ledger", "ledger")
    await leader.run(Ledger(leader))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
