"""How far the stream is entered: the row of the intake, by the writer's role."""

import asyncpg

from causeloop_audit.domain.position import Position
from causeloop_audit.repository.held import Transactions, row_is_gone

READ = "SELECT stream, position, again_to FROM audit.intake"
_ADVANCE = "UPDATE audit.intake SET position = coalesce($1, position)"
_KEEP = "UPDATE audit.intake SET stream = $1, position = $2, again_to = $3"
_END_AGAIN = "UPDATE audit.intake SET again_to = 0"


class Positions:
    """Keeps the position; a batch that is appended or held moves it in its own transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def read(self) -> Position:
        """The position."""
        rows = await self._transactions.fetch(READ)
        if not rows:
            raise row_is_gone()
        return Position(*rows[0])

    async def keep(self, position: Position) -> None:
        """Put this position in place of the one that is there."""
        async with self._transactions.transaction() as connection:
            await connection.execute(_KEEP, *position)

    async def end_again(self) -> None:
        """Note that nothing more is entered again."""
        async with self._transactions.transaction() as connection:
            await connection.execute(_END_AGAIN)

    async def advance(self, number: int | None) -> None:
        """Note that everything up to this number, if one is given, is entered."""
        async with self._transactions.transaction() as connection:
            await advance(connection, number)


async def advance(connection: asyncpg.Connection, number: int | None) -> None:
    """In a transaction: note that everything up to this number, if one is given, is entered."""
    if await connection.execute(_ADVANCE, number) != "UPDATE 1":
        raise row_is_gone()
