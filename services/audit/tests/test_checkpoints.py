"""Checkpoints and proofs on real PostgreSQL, signed by a real vault: what holds, and what an attacker would try."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWatch
from causeloop_audit.service import CheckpointService, LogService, Signer
from causeloop_audit.settings import AuditSettings
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import GetCheckpoint, GetConsistency, GetEventProof
from causeloop_common.contracts.vault import GetAuditKey
from causeloop_common.database import Database, role_connections
from causeloop_common.errors import Conflict, InvalidInput, NotFound, Unavailable
from causeloop_common.leader import Leader, Work
from causeloop_common.messaging import Bus
from causeloop_common.telemetry import metrics
from causeloop_dev.testing import Servers, context
from causeloop_log.tlog import merkle
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import EMPTY_ROOT, Frontier, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof
from causeloop_vault import app as vault_app

PATIENCE = 10.0

Make = Callable[..., Announced]
Sign = Callable[[CheckpointService], tuple[Leader, Signer]]
Events = list[Announced]


@pytest.fixture(scope="module")
async def vault(servers: Servers) -> AsyncIterator[None]:
    """The witness."""
    application = vault_app.create(servers.environ["vault"])
    await application.start()
    yield
    await application.stop()


@pytest.fixture(scope="module")
async def database(servers: Servers) -> AsyncIterator[Database]:
    settings = AuditSettings.load("audit", servers.environ["audit"])
    made = Database(settings.dsn("causeloop_audit"), "audit", metadata, workers=4)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(scope="module")
async def bus(servers: Servers, vault: None) -> AsyncIterator[Bus]:
    async with servers.connected("audit") as made:
        yield made


@pytest.fixture(scope="module")
async def gateway(servers: Servers, vault: None) -> AsyncIterator[Bus]:
    async with servers.connected("gateway") as made:
        yield made


@pytest.fixture
def checkpoints(database: Database, bus: Bus) -> CheckpointService:
    return CheckpointService(database, bus)


@pytest.fixture
async def key(gateway: Bus, workspace: AuthContext) -> VerifierKey:
    return VerifierKey.parse((await gateway.call(workspace, GetAuditKey())).key)


@pytest.fixture
async def sign(servers: Servers) -> AsyncIterator[Sign]:
    """Makes a signer, and its part in the lead."""
    settings = AuditSettings.load("audit", servers.environ["audit"])
    own, writer = (role_connections(settings.dsn(role), role) for role in ("causeloop_audit", WRITER))

    def make(checkpoints: CheckpointService) -> tuple[Leader, Signer]:
        leader = Leader(own, "audit", "signer")
        return leader, Signer(leader, LogWatch(writer), checkpoints, seconds=0.05)

    yield make
    for connections in (own, writer):
        await connections.close(1)


@pytest.fixture
def away(database: Database, servers: Servers) -> CheckpointService:
    """Checkpoints with a vault that cannot be reached."""
    return CheckpointService(database, servers.bus("audit"))


async def grow(log: LogService, event: Make, count: int, **given: str) -> Events:
    """Append so many entries."""
    events = [event(**given) for _ in range(count)]
    await log.append(events)
    return events


def broken() -> float:
    """How often a log was found broken."""
    return float(metrics.LOGS_BROKEN._value.get())


async def hashes(superuser: asyncpg.Connection, ctx: AuthContext) -> list[bytes]:
    """The leaf hashes as they lie in the database."""
    rows = "SELECT leaf_hash FROM audit.entries WHERE workspace_id = $1 ORDER BY index"
    return [row["leaf_hash"] for row in await superuser.fetch(rows, ctx.tenant_uuid)]


def tree(leaves: list[bytes]) -> Frontier:
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier


async def put_head(superuser: asyncpg.Connection, ctx: AuthContext, frontier: Frontier) -> None:
    """Move the head as an attacker would who can write to the database."""
    await superuser.execute(
        "UPDATE audit.heads SET size = $2, root = $3, peaks = $4 WHERE workspace_id = $1",
        ctx.tenant_uuid, frontier.size, frontier.root(), frontier.pack(),
    )  # fmt: skip


async def cut(superuser: asyncpg.Connection, ctx: AuthContext, size: int) -> None:
    """Delete the entries from `size` on and move the head back, as if restored from before them."""
    await superuser.execute("DELETE FROM audit.entries WHERE workspace_id = $1 AND index >= $2", ctx.tenant_uuid, size)
    await put_head(superuser, ctx, tree(await hashes(superuser, ctx)))


async def rewrite(superuser: asyncpg.Connection, ctx: AuthContext, index: int) -> None:
    """Change an entry, and the head so that it fits."""
    await superuser.execute(
        "UPDATE audit.entries SET leaf = 'forged', leaf_hash = $3 WHERE workspace_id = $1 AND index = $2",
        ctx.tenant_uuid, index, leaf_hash(b"forged"),
    )  # fmt: skip
    await put_head(superuser, ctx, tree(await hashes(superuser, ctx)))


class TestGetCheckpoint:
    async def test_of_an_empty_log(
        self, checkpoints: CheckpointService, key: VerifierKey, workspace: AuthContext
    ) -> None:
        view = await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        assert Checkpoint.verified(view.checkpoint, key) == Checkpoint(key.name, 0, EMPTY_ROOT)
        assert await checkpoints.get_checkpoint(workspace, GetCheckpoint()) == view

    async def test_follows_a_log_that_grows(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        key: VerifierKey,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        for count in (1, 6, 250, 1):
            await grow(log, event, count)
            view = await checkpoints.get_checkpoint(workspace, GetCheckpoint())
            frontier = tree(await hashes(superuser, workspace))
            assert Checkpoint.verified(view.checkpoint, key) == Checkpoint(key.name, frontier.size, frontier.root())
            assert (view.size, view.root) == (frontier.size, frontier.root().hex())

    async def test_goes_on_silently_where_another_replica_signed_meanwhile(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        before = broken()
        await grow(log, event, 5)
        await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        kept = "SELECT size, note FROM audit.checkpoints WHERE workspace_id = $1"
        old = await superuser.fetchrow(kept, workspace.tenant_uuid)
        assert old is not None
        await grow(log, event, 4)
        await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        await superuser.execute(
            "UPDATE audit.checkpoints SET size = $2, note = $3 WHERE workspace_id = $1", workspace.tenant_uuid, *old
        )  # the vault has signed 9, and here 5 is known: so it is after a crash before the checkpoint was kept
        assert (await checkpoints.get_checkpoint(workspace, GetCheckpoint())).size == 9
        await grow(log, event, 1)
        assert (await checkpoints.get_checkpoint(workspace, GetCheckpoint())).size == 10
        assert broken() == before

    async def test_many_at_once_raise_no_alarm(
        self, checkpoints: CheckpointService, log: LogService, event: Make, workspace: AuthContext
    ) -> None:
        before = broken()

        async def append() -> None:
            for _ in range(20):
                await grow(log, event, 1)

        async def ask() -> None:
            for _ in range(10):
                with suppress(Conflict):  # it grew faster than it could be signed
                    await checkpoints.get_checkpoint(workspace, GetCheckpoint())

        await asyncio.gather(append(), *(ask() for _ in range(8)))
        assert (await checkpoints.get_checkpoint(workspace, GetCheckpoint())).size == 20
        assert broken() == before

    async def test_refuses_a_log_restored_from_before_what_was_signed(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        await grow(log, event, 9)
        await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        await cut(superuser, workspace, 7)
        for forget in (False, True):
            if forget:
                await superuser.execute("DELETE FROM audit.checkpoints WHERE workspace_id = $1", workspace.tenant_uuid)
            before = broken()
            with pytest.raises(Conflict, match="it has 7 entries, and 9 were signed"):
                await checkpoints.get_checkpoint(workspace, GetCheckpoint())
            assert broken() == before + 1

    async def test_refuses_an_entry_rewritten_before_the_log_grew(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        await grow(log, event, 9)
        await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        await rewrite(superuser, workspace, 3)
        await grow(log, event, 1)
        before = broken()
        with pytest.raises(Conflict, match="leads to another root of the older tree") as refused:
            await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        assert refused.value.detail.count("does not continue") == 1
        assert broken() == before + 1

    async def test_refuses_an_entry_rewritten_at_the_size_that_was_signed(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        await grow(log, event, 9)
        await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        await rewrite(superuser, workspace, 3)
        with pytest.raises(Conflict, match="another root than was signed at the same size, 9"):
            await checkpoints.get_checkpoint(workspace, GetCheckpoint())

    async def test_refuses_a_log_whose_hashes_are_gone(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        await grow(log, event, 9)
        await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        await grow(log, event, 2)
        gone = "DELETE FROM audit.entries WHERE workspace_id = $1 AND index = 9"
        await superuser.execute(gone, workspace.tenant_uuid)
        before = broken()
        with pytest.raises(Conflict, match="entries or nodes of it are missing"):
            await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        assert broken() == before + 1

    async def test_waits_for_a_vault_that_is_away(
        self, away: CheckpointService, log: LogService, event: Make, workspace: AuthContext
    ) -> None:
        before = broken()
        await grow(log, event, 1)
        with pytest.raises(Unavailable):
            await away.get_checkpoint(workspace, GetCheckpoint())
        assert broken() == before


class TestGetEventProof:
    async def test_verifies_at_every_size_around_stored_nodes(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        key: VerifierKey,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        events: Events = []
        for size in (*range(1, 18), 255, 256, 257, 300, 511, 512, 513, 600):
            events += await grow(log, event, size - len(events))
            leaves = await hashes(superuser, workspace)
            for index in {0, size // 2, max(0, size - 2), size - 1, min(255, size - 1), min(256, size - 1)}:
                told = await checkpoints.get_event_proof(workspace, GetEventProof(id=events[index].id))
                proof = LogProof.parse(told.tlog_proof)
                checkpoint = proof.verified(key, leaves[index])
                assert index < checkpoint.size <= size
                assert proof.leaf is not None
                assert (proof.index, leaf_hash(proof.leaf)) == (index, leaves[index])
                assert checkpoint.root == tree(leaves[: checkpoint.size]).root()

    async def test_of_an_entry_younger_than_the_last_checkpoint_has_a_new_one_signed(
        self, checkpoints: CheckpointService, log: LogService, event: Make, workspace: AuthContext
    ) -> None:
        (old,) = await grow(log, event, 1)
        assert (await checkpoints.get_event_proof(workspace, GetEventProof(id=old.id))).size == 1
        *_, young = await grow(log, event, 3)
        assert (await checkpoints.get_event_proof(workspace, GetEventProof(id=old.id))).size == 1
        assert (await checkpoints.get_event_proof(workspace, GetEventProof(id=young.id))).size == 4

    async def test_of_an_old_entry_needs_no_vault(
        self, checkpoints: CheckpointService, away: CheckpointService, log: LogService, event: Make,
        workspace: AuthContext,
    ) -> None:  # fmt: skip
        (old,) = await grow(log, event, 1)
        proven = await checkpoints.get_event_proof(workspace, GetEventProof(id=old.id))
        assert await away.get_event_proof(workspace, GetEventProof(id=old.id)) == proven

    async def test_of_a_pruned_entry_still_verifies(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        key: VerifierKey,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        first, _ = await grow(log, event, 2)
        await superuser.execute(
            "UPDATE audit.entries SET leaf = NULL WHERE workspace_id = $1 AND index = 0", workspace.tenant_uuid
        )
        told = await checkpoints.get_event_proof(workspace, GetEventProof(id=first.id))
        assert told.leaf is None
        LogProof.parse(told.tlog_proof).verified(key, bytes.fromhex(told.leaf_hash))

    async def test_another_tenant_finds_nothing(
        self, checkpoints: CheckpointService, log: LogService, event: Make, workspace: AuthContext
    ) -> None:
        (one,) = await grow(log, event, 1)
        with pytest.raises(NotFound, match="no such event in this workspace's log"):
            await checkpoints.get_event_proof(replace(workspace, tenant=ids.new("ws")), GetEventProof(id=one.id))

    async def test_refuses_a_log_that_lost_what_was_signed(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        first, *_ = await grow(log, event, 9)
        await checkpoints.get_checkpoint(workspace, GetCheckpoint())
        await cut(superuser, workspace, 7)
        with pytest.raises(Conflict, match="entries or nodes of it are missing"):
            await checkpoints.get_event_proof(workspace, GetEventProof(id=first.id))


class TestGetConsistency:
    async def test_holds_between_any_two_sizes(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        await grow(log, event, 600)
        frontier, roots = Frontier(), [EMPTY_ROOT]
        for leaf in await hashes(superuser, workspace):
            frontier.append(leaf)
            roots.append(frontier.root())
        chance = random.Random(6962)
        sizes = [(0, 0), (0, 600), (600, 600), (255, 256), (256, 257), (256, 512), (511, 513)]
        sizes += [(min(pair), max(pair)) for pair in (chance.sample(range(601), 2) for _ in range(100))]
        for old, new in sizes:
            told = await checkpoints.get_consistency(workspace, GetConsistency.model_validate({"from": old, "to": new}))
            path = [bytes.fromhex(sibling) for sibling in told.path]
            merkle.verify_consistency(old, roots[old], new, roots[new], path)

    @pytest.mark.parametrize(
        ("sizes", "field", "why"),
        [
            ({"from": 0, "to": 4}, "to", "is more than the log has: 3 entries"),
            ({"from": 2, "to": 1}, "from", "is more than 'to', which is 1"),
            ({"from": 4}, "from", "is more than 'to', which is 3"),
        ],
    )
    async def test_refuses_sizes_by_name(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        sizes: dict[str, int],
        field: str,
        why: str,
    ) -> None:
        await grow(log, event, 3)
        with pytest.raises(InvalidInput) as refused:
            await checkpoints.get_consistency(workspace, GetConsistency.model_validate(sizes))
        assert refused.value.fields == {field: [why]}


class TestSigner:
    async def test_signs_a_log_nobody_asks_for_and_goes_on_after_a_broken_one(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        sign: Sign,
        superuser: asyncpg.Connection,
    ) -> None:
        spoilt, gone, sound = sorted((context(ids.new("ws")) for _ in range(3)), key=lambda ctx: ctx.tenant_uuid)
        for one in (spoilt, gone):
            await grow(log, event, 9, tenant=one.tenant)
            await checkpoints.get_checkpoint(one, GetCheckpoint())
        await rewrite(superuser, spoilt, 3)
        for one in (spoilt, gone, sound):
            await grow(log, event, 1, tenant=one.tenant)
        await superuser.execute("DELETE FROM audit.entries WHERE workspace_id = $1 AND index = 9", gone.tenant_uuid)
        leader, signer = sign(checkpoints)
        async with running(leader, signer):
            assert await signed(superuser, sound, 1)
            await leader.check()
        assert not await signed(superuser, spoilt, 10, seconds=0)

    async def test_says_so_while_the_vault_is_away_and_holds_up_no_log_for_another(
        self, away: CheckpointService, log: LogService, event: Make, sign: Sign
    ) -> None:
        first, second = sorted((context(ids.new("ws")) for _ in range(2)), key=lambda ctx: ctx.tenant_uuid)
        for one in (first, second):
            await grow(log, event, 1, tenant=one.tenant)
        tried: list[str] = []
        both = asyncio.Event()
        ask = away.sign

        async def noted(ctx: AuthContext, **more: Any) -> Any:
            tried.append(ctx.tenant)
            if len(tried) == 2:
                both.set()
            return await ask(ctx, **more)

        away.sign = noted  # type: ignore[method-assign]
        leader, signer = sign(away)
        signer._after = UUID(int=first.tenant_uuid.int - 1)  # other tests left logs that are behind
        async with running(leader, signer), asyncio.timeout(PATIENCE):
            await both.wait()
            with pytest.raises(Unavailable, match="The signer waits"):
                await leader.check()
        assert tried[:2] == [first.tenant, second.tenant]

    async def test_stands_by_while_another_leads(
        self,
        checkpoints: CheckpointService,
        log: LogService,
        event: Make,
        workspace: AuthContext,
        sign: Sign,
        superuser: asyncpg.Connection,
    ) -> None:
        leader, _ = sign(checkpoints)
        await grow(log, event, 1)
        async with running(leader, Idle()):
            async with asyncio.timeout(PATIENCE):
                while not leader.leads:  # noqa: ASYNC110  it lies in the database
                    await asyncio.sleep(0.02)
            other, signer = sign(checkpoints)
            task = asyncio.create_task(other.run(signer))
            assert not await signed(superuser, workspace, 1, seconds=0.5)
            await other.check()
        assert await signed(superuser, workspace, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Idle(Work):
    """Leads, and does nothing."""

    async def lead(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def running(leader: Leader, work: Work) -> AsyncIterator[None]:
    task = asyncio.create_task(leader.run(work))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def signed(superuser: asyncpg.Connection, ctx: AuthContext, size: int, seconds: float = PATIENCE) -> bool:
    """Whether a checkpoint of this size is kept within so long."""
    kept = "SELECT size FROM audit.checkpoints WHERE workspace_id = $1"
    end = asyncio.get_running_loop().time() + seconds
    while await superuser.fetchval(kept, ctx.tenant_uuid) != size:
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(0.02)
    return True
