"""The logs that grew since they were signed, and those that are refused: across tenants, by the writer's role."""

from collections.abc import Collection
from uuid import UUID

import asyncpg

from causeloop_audit.domain.position import Position
from causeloop_audit.repository.faults import reading_faults
from causeloop_audit.repository.position import READ as POSITION
from causeloop_common.database import Connections
from causeloop_log.tlog.merkle import TreeHead

_ALL_BEHIND = """
    SELECT h.workspace_id FROM audit.heads h
    LEFT JOIN audit.checkpoints c USING (workspace_id) LEFT JOIN audit.refused r USING (workspace_id)
    WHERE CASE WHEN r.size IS NULL THEN (h.size, h.root) IS DISTINCT FROM (c.size, c.root)
               ELSE h.size >= r.size AND h.size > r.entries END
"""
_BEHIND = f"{_ALL_BEHIND} AND h.workspace_id > $1 ORDER BY h.workspace_id LIMIT $2"
_BEHIND_OF = f"{_ALL_BEHIND} AND h.workspace_id = ANY ($1::uuid[])"
_HEADS = "SELECT workspace_id, size, root FROM audit.heads"
_LOGS = "SELECT workspace_id FROM audit.heads WHERE workspace_id > $1 ORDER BY workspace_id LIMIT $2"
_REFUSED = "SELECT workspace_id FROM audit.refused ORDER BY workspace_id LIMIT $1"
_COUNT_REFUSED = """
    SELECT count(*) AS refused, count(*) FILTER (WHERE coalesce(h.size, 0) < r.size) AS short
    FROM audit.refused r LEFT JOIN audit.heads h USING (workspace_id)
"""
_COUNT = "SELECT count(*) FROM audit.heads"
_LAST_TERM = "SELECT coalesce(terms -> -1 ->> 0, '') AS term FROM audit.intake"


class LogWatch:
    """Finds the logs that grew since they were last signed, and those that the vault refuses."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def behind(self, after: UUID, limit: int) -> list[UUID]:
        """The tenants whose head differs from the one last signed, in the order of their ids, after the given id.

        A log that the vault refuses is among them once it grew since then, to as many entries as were signed.
        """
        return [row["workspace_id"] for row in await self._fetch(_BEHIND, after, limit)]

    async def behind_of(self, logs: Collection[UUID]) -> list[UUID]:
        """Those of these tenants whose head differs from the one last signed, or that the vault may sign again."""
        return [row["workspace_id"] for row in await self._fetch(_BEHIND_OF, logs)]

    async def logs(self, after: UUID, limit: int) -> list[UUID]:
        """All tenants with a log, in the order of their ids, after the given id."""
        return [row["workspace_id"] for row in await self._fetch(_LOGS, after, limit)]

    async def refused(self, limit: int) -> list[UUID]:
        """The first tenants whose logs the vault refuses, in the order of their ids."""
        return [row["workspace_id"] for row in await self._fetch(_REFUSED, limit)]

    async def count_refused(self) -> tuple[int, int]:
        """How many logs the vault refuses, and how many of these have fewer entries than were signed."""
        (row,) = await self._fetch(_COUNT_REFUSED)
        return int(row["refused"]), int(row["short"])

    async def heads(self) -> dict[UUID, TreeHead]:
        """By tenant, the head of every log."""
        return {row["workspace_id"]: TreeHead(row["size"], row["root"]) for row in await self._fetch(_HEADS)}

    async def position(self) -> Position:
        """How far the stream is entered."""
        (row,) = await self._fetch(POSITION)
        return Position(*row)

    async def term(self) -> str:
        """The last term of the intake; empty before the first."""
        (row,) = await self._fetch(_LAST_TERM)
        return str(row["term"])

    async def count(self) -> int:
        """How many logs there are."""
        (row,) = await self._fetch(_COUNT)
        return int(row["count"])

    async def _fetch(self, statement: str, *values: object) -> list[asyncpg.Record]:
        with reading_faults():
            async with self._connections.borrowed() as connection:
                return list(await connection.fetch(statement, *values))
