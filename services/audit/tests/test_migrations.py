"""Logs from before there were proofs: the migration that makes their nodes, as the ordinary role that migrates."""

from uuid import UUID

import asyncpg

from causeloop_common import ids
from causeloop_dev.testing import Servers
from causeloop_log.tlog.merkle import Frontier, Node, leaf_hash
from tests.support.upgrades import upgrading

SIZE = 700


async def put_log(superuser: asyncpg.Connection, workspace: UUID, size: int) -> Frontier:
    """A log as the first version left it, with no nodes."""
    frontier = Frontier()
    leaves = [leaf_hash(f"{workspace}{number}".encode()) for number in range(size)]
    for leaf in leaves:
        frontier.append(leaf)
    await superuser.execute(
        """
        INSERT INTO audit.entries (workspace_id, index, event_id, action, actor, target, request_id, occurred_at,
                                   leaf_hash)
        SELECT $1, number - 1, gen_random_uuid(), 'a.b', 'usr', 'sec', 'req', now(), hash
        FROM unnest($2::bytea[]) WITH ORDINALITY AS leaf(hash, number)
        """,
        workspace, leaves,
    )  # fmt: skip
    await superuser.execute(
        "INSERT INTO audit.heads (workspace_id, size, root, peaks) VALUES ($1, $2, $3, $4)",
        workspace, size, frontier.root(), frontier.pack(),
    )  # fmt: skip
    return frontier


async def test_logs_from_before_proofs_get_their_nodes_from_an_ordinary_role(servers: Servers) -> None:
    async with upgrading(servers, audit="0001") as upgrade:
        logs = {ids.uuid7(): size for size in (SIZE, 256, 255, 1)}
        grown = {workspace: await put_log(upgrade.superuser, workspace, size) for workspace, size in logs.items()}

        await upgrade.rest()

        for workspace, frontier in grown.items():
            rows = await upgrade.superuser.fetch(
                "SELECT level, index, hash FROM audit.nodes WHERE workspace_id = $1 ORDER BY level, index", workspace
            )
            assert [Node(*row) for row in rows] == frontier.completed
        assert await upgrade.superuser.fetchval("SELECT count(*) FROM audit.nodes") == 3
