"""Logs from before there were proofs: the migration that makes their nodes, as the ordinary role that migrates."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest
from alembic import command

from causeloop_audit import models
from causeloop_cli import services
from causeloop_common import ids, migrations, rls
from causeloop_common.settings import role_password, with_role
from causeloop_dev.testing import Servers
from causeloop_log.tlog.merkle import Frontier, Node, leaf_hash

SIZE = 700


@pytest.fixture
async def urls(servers: Servers) -> AsyncIterator[tuple[str, str]]:
    """An empty database: its migrator's address, and a superuser's."""
    name = f"backfill_{ids.uuid7().hex}"
    connection = await asyncpg.connect(servers.superuser_url)
    await connection.execute(f"CREATE DATABASE {name} OWNER causeloop_migrator")
    yield (
        urlunsplit(urlsplit(servers.database_url)._replace(path=f"/{name}")),
        urlunsplit(urlsplit(servers.superuser_url)._replace(path=f"/{name}")),
    )
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


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


async def test_logs_from_before_proofs_get_their_nodes_from_an_ordinary_role(
    servers: Servers, urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, superuser_url = urls
    secret, schemas = servers.jwt_secret.encode(), [services.schemas()["audit"]]
    upgrade = command.upgrade
    with monkeypatch.context() as first:
        first.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        await migrations.migrate(url, secret, schemas)
    superuser = await asyncpg.connect(superuser_url)
    try:
        logs = {ids.uuid7(): size for size in (SIZE, 256, 255, 1)}
        grown = {workspace: await put_log(superuser, workspace, size) for workspace, size in logs.items()}

        await migrations.migrate(url, secret, schemas)

        for workspace, frontier in grown.items():
            rows = await superuser.fetch(
                "SELECT level, index, hash FROM audit.nodes WHERE workspace_id = $1 ORDER BY level, index", workspace
            )
            assert [Node(*row) for row in rows] == frontier.completed
        assert await superuser.fetchval("SELECT count(*) FROM audit.nodes") == 3
    finally:
        await superuser.close()

    service: Any = await asyncpg.connect(with_role(url, "causeloop_audit", role_password(secret, "causeloop_audit")))
    try:
        assert await rls.prove(service, "audit", models.metadata) == []
    finally:
        await service.close()
