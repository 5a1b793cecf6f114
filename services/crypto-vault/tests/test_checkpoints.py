"""The witness: a log is signed while it grows, and in no other case."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import ValidationError

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import (
    SIGNED_AT_ONCE,
    EpochOpened,
    GetAuditKey,
    GrownLog,
    SignCheckpoints,
    WitnessedLog,
)
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, Forbidden, InvalidInput, Unavailable
from causeloop_common.settings import SettingsError
from causeloop_common.statements import Statement
from causeloop_dev.testing import Servers
from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import EMPTY, Frontier, Span, TreeHead, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_vault import repository
from causeloop_vault.domain import witness
from causeloop_vault.domain.witness import Stale
from causeloop_vault.repository import Signed
from causeloop_vault.service import CheckpointService, EpochService
from causeloop_vault.settings import VaultSettings

if TYPE_CHECKING:
    from conftest import Vault


class Log:
    """A log in memory, to be signed."""

    def __init__(self, *leaves: bytes) -> None:
        self.hashes = [leaf_hash(leaf) for leaf in leaves]

    def head(self, size: int) -> TreeHead:
        return TreeHead(size, self._root(Span(0, size)))

    def proof(self, old: int, new: int) -> list[bytes]:
        return [self._root(span) for span in merkle.consistency_spans(old, new)]

    def asks(self, old: int, new: int, tenant: str = ids.INSTALLATION) -> GrownLog:
        proof = [sibling.hex() for sibling in self.proof(old, new)]
        return GrownLog(tenant=tenant, old_size=old, size=new, root=self.head(new).root.hex(), proof=proof)

    def _root(self, span: Span) -> bytes:
        frontier = Frontier()
        for hashed in self.hashes[span.first : span.last]:
            frontier.append(hashed)
        return frontier.root()


LOG = Log(*(str(number).encode() for number in range(20)))
FORKED = Log(*(str(number).encode() for number in range(7)), b"forged", *(str(n).encode() for n in range(8, 20)))


class TestJudge:
    def test_lets_a_log_grow_from_nothing(self) -> None:
        signed = EMPTY
        for size in (0, 1, 2, 7, 8, 20):
            head = LOG.head(size)
            witness.judge(signed, signed.size, head, LOG.proof(signed.size, size))
            signed = head

    def test_lets_the_last_one_be_signed_again_wherever_the_proof_begins(self) -> None:
        for old in (0, 3, 8, 9):
            witness.judge(LOG.head(8), old, LOG.head(8), [])

    def test_refuses_another_root_at_the_same_size(self) -> None:
        with pytest.raises(NotVerified, match="another root than was signed at the same size, 8"):
            witness.judge(LOG.head(8), 8, FORKED.head(8), [])

    def test_refuses_a_smaller_log(self) -> None:
        for old in (0, 7, 8):
            with pytest.raises(Stale) as stale:
                witness.judge(LOG.head(8), old, LOG.head(7), [])
            assert stale.value.size == 8

    def test_refuses_a_proof_that_begins_elsewhere(self) -> None:
        with pytest.raises(Stale) as stale:
            witness.judge(LOG.head(8), 4, LOG.head(20), LOG.proof(4, 20))
        assert stale.value.size == 8

    def test_refuses_a_log_that_was_changed_before_what_was_signed(self) -> None:
        with pytest.raises(NotVerified, match="leads to another root"):
            witness.judge(LOG.head(8), 8, FORKED.head(20), FORKED.proof(8, 20))

    def test_refuses_to_go_on_without_a_proof(self) -> None:
        with pytest.raises(NotVerified, match="ends before the root"):
            witness.judge(LOG.head(8), 8, LOG.head(20), [])


async def sign(checkpoints: CheckpointService, ctx: AuthContext, asked: GrownLog) -> WitnessedLog:
    """The answer for the log of the context's tenant."""
    (answer,) = await sign_all(checkpoints, ctx, asked.model_copy(update={"tenant": ctx.tenant}))
    return answer


async def sign_all(checkpoints: CheckpointService, ctx: AuthContext, *asked: GrownLog) -> list[WitnessedLog]:
    """The answers for these logs, asked on the installation's account."""
    own = replace(ctx, tenant=ids.INSTALLATION)
    return (await checkpoints.sign_checkpoints(own, SignCheckpoints(logs=list(asked)))).logs


def checkpoint_of(answer: WitnessedLog) -> str:
    assert answer.checkpoint is not None
    return answer.checkpoint


@pytest.fixture
async def ready(vault: "Vault") -> CheckpointService:
    """Checkpoints of a vault that has opened its signing key."""
    await vault.checkpoints.open_signing_key()
    return vault.checkpoints


class TestSignCheckpoints:
    async def test_signs_what_grows_and_the_key_verifies_it(
        self, ready: CheckpointService, workspace: AuthContext
    ) -> None:
        key = VerifierKey.parse((await ready.get_audit_key(workspace, GetAuditKey())).key)
        for old, new in ((0, 1), (1, 8), (8, 20), (20, 20)):
            signed = await sign(ready, workspace, LOG.asks(old, new))
            checkpoint = Checkpoint.verified(checkpoint_of(signed), key)
            assert checkpoint == Checkpoint(f"causeloop.localhost/log/{workspace.tenant}", new, LOG.head(new).root)
            assert (signed.signed_size, signed.refused) == (new, None)

    async def test_signs_many_logs_each_by_what_was_signed_of_it(
        self, ready: CheckpointService, workspace: AuthContext
    ) -> None:
        tenants = [ids.new("ws") for _ in range(SIGNED_AT_ONCE)]
        for number, tenant in enumerate(tenants[:6]):
            await sign_all(ready, workspace, LOG.asks(0, 7 + number % 2, tenant))
        asked = [LOG.asks(8, 20, tenant) for tenant in tenants[:6]]
        asked += [FORKED.asks(0, 9, tenant) for tenant in tenants[6:]]
        asked[1] = FORKED.asks(8, 20, tenants[1])
        answers = await sign_all(ready, workspace, *asked)
        for number, (tenant, answer) in enumerate(zip(tenants, answers, strict=True)):
            if number == 1:
                assert (answer.checkpoint, answer.signed_size) == (None, 8)
                assert answer.refused is not None
                assert "leads to another root" in answer.refused
            elif number in (0, 2, 4):  # seven were signed
                assert (answer.checkpoint, answer.refused, answer.signed_size) == (None, None, 7)
            else:
                key = VerifierKey.parse(
                    (await ready.get_audit_key(replace(workspace, tenant=tenant), GetAuditKey())).key
                )
                assert Checkpoint.verified(checkpoint_of(answer), key).size == (20 if number < 6 else 9)

    async def test_leaves_the_transaction_to_its_own_tenant(
        self, ready: CheckpointService, database: Database, workspace: AuthContext
    ) -> None:
        """A visit of other tenants binds the transaction to them for its own time alone."""
        other = ids.tenant_uuid(ids.new("ws"))
        async with database.transaction(workspace) as tx:
            await repository.lock_checkpoints(tx, [other, workspace.tenant_uuid])
            bound = await tx.fetchrow(Statement.raw("SELECT vault.app_current_tenant() AS tenant"))
            seen = await tx.fetch(Statement.raw("SELECT workspace_id FROM vault.checkpoints"))
        assert bound["tenant"] == workspace.tenant_uuid
        assert [row["workspace_id"] for row in seen] == [workspace.tenant_uuid]

    async def test_is_asked_on_the_installation_s_account_alone(
        self, ready: CheckpointService, workspace: AuthContext
    ) -> None:
        for tenant in (workspace.tenant, ids.new("ws")):
            with pytest.raises(Forbidden, match="on the installation's account"):
                await ready.sign_checkpoints(workspace, SignCheckpoints(logs=[LOG.asks(0, 1, tenant)]))

    async def test_refuses_a_log_that_is_named_twice(self, ready: CheckpointService, workspace: AuthContext) -> None:
        with pytest.raises(InvalidInput) as refused:
            await sign_all(ready, workspace, LOG.asks(0, 1, workspace.tenant), LOG.asks(0, 8, workspace.tenant))
        assert refused.value.fields == {"logs": ["names a log twice"]}

    def test_is_bounded(self) -> None:
        logs = [LOG.asks(0, 1, ids.new("ws")) for _ in range(SIGNED_AT_ONCE + 1)]
        for many in ([], logs):
            with pytest.raises(ValidationError, match=r"at least 1 item|at most 50 items"):
                SignCheckpoints(logs=many)

    async def test_an_empty_log_can_be_signed(self, ready: CheckpointService, workspace: AuthContext) -> None:
        empty = LOG.asks(0, 0)
        assert "\n0\n" in checkpoint_of(await sign(ready, workspace, empty))
        answer = await sign(ready, workspace, empty.model_copy(update={"root": "00" * 32}))
        assert answer.refused == "the log has another root than was signed at the same size, 0"

    @pytest.mark.parametrize(
        ("asked", "why"),
        [
            (FORKED.asks(8, 8), "another root than was signed at the same size"),
            (FORKED.asks(8, 20), "leads to another root"),
            (LOG.asks(8, 20).model_copy(update={"proof": []}), "ends before the root"),
            (LOG.asks(8, 20).model_copy(update={"proof": ["00" * 32] * 60}), "longer than the path"),
            (LOG.asks(0, 7), None),
            (LOG.asks(0, 20), None),
        ],
        ids=["another root", "forked", "without proof", "padded proof", "smaller", "from elsewhere"],
    )
    async def test_refuses_what_does_not_continue_and_remembers_what_was_signed(
        self, ready: CheckpointService, workspace: AuthContext, asked: GrownLog, why: str | None
    ) -> None:
        await sign(ready, workspace, LOG.asks(0, 8))
        answer = await sign(ready, workspace, asked)
        assert (answer.checkpoint, answer.signed_size) == (None, 8)
        assert answer.refused is None if why is None else why in str(answer.refused)
        assert (await sign(ready, workspace, LOG.asks(8, 20))).checkpoint is not None

    async def test_logs_a_refused_log_once_until_it_is_signed_again(
        self, ready: CheckpointService, workspace: AuthContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        await sign(ready, workspace, LOG.asks(0, 8))
        for size in (9, 10, 20):
            assert (await sign(ready, workspace, FORKED.asks(8, size))).refused is not None
        assert [line.levelname for line in caplog.records if workspace.tenant in line.getMessage()] == ["CRITICAL"]
        caplog.clear()
        await sign(ready, workspace, LOG.asks(8, 9))
        await sign(ready, workspace, FORKED.asks(9, 10))
        assert [line.levelname for line in caplog.records if workspace.tenant in line.getMessage()] == ["CRITICAL"]

    async def test_what_was_signed_outlives_the_process(
        self, ready: CheckpointService, new_vault: Callable[..., "Vault"], workspace: AuthContext
    ) -> None:
        first = await sign(ready, workspace, LOG.asks(0, 8))
        again = new_vault().checkpoints
        await again.open_signing_key()
        assert await sign(again, workspace, LOG.asks(0, 8)) == first
        assert "another root" in str((await sign(again, workspace, FORKED.asks(0, 8))).refused)

    async def test_tenants_have_histories_of_their_own(
        self, ready: CheckpointService, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await sign(ready, workspace, LOG.asks(0, 8))
        other = as_user(ids.new("ws"))
        signed = await sign(ready, other, FORKED.asks(0, 8))
        key = VerifierKey.parse((await ready.get_audit_key(workspace, GetAuditKey())).key)
        with pytest.raises(NotVerified, match="is not signed by the key"):
            Checkpoint.verified(checkpoint_of(signed), key)

    async def test_of_many_who_race_one_history_comes_out(
        self, ready: CheckpointService, workspace: AuthContext
    ) -> None:
        racers = [log.asks(0, size) for log in (LOG, FORKED) for size in range(8, 20)]
        ended = await asyncio.gather(*(sign(ready, workspace, asked) for asked in racers))
        assert sum(answer.checkpoint is not None for answer in ended) == 1

    async def test_of_many_lists_that_race_none_waits_for_another(
        self, ready: CheckpointService, workspace: AuthContext
    ) -> None:
        tenants = [ids.new("ws") for _ in range(10)]
        lists = [[LOG.asks(0, 8, tenant) for tenant in order] for order in (tenants, tenants[::-1]) for _ in range(4)]
        for answers in await asyncio.gather(*(sign_all(ready, workspace, *one) for one in lists)):
            assert all(answer.checkpoint is not None for answer in answers)

    async def test_writes_no_event_which_would_move_the_log(
        self, ready: CheckpointService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await sign(ready, workspace, LOG.asks(0, 8))
        written = "SELECT count(*) FROM vault.outbox WHERE workspace_id = $1"
        assert await superuser.fetchval(written, workspace.tenant_uuid) == 0


class TestTheSigningKey:
    async def test_is_made_once_by_however_many_start(
        self, new_vault: Callable[..., "Vault"], workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        vaults = [new_vault().checkpoints for _ in range(20)]
        await asyncio.gather(*(vault.open_signing_key() for vault in vaults))
        keys = {(await vault.get_audit_key(workspace, GetAuditKey())).key for vault in vaults}
        assert len(keys) == 1
        rows = await superuser.fetch("SELECT * FROM vault.signing_keys")
        assert len(rows) == 1
        assert rows[0]["sealed"].startswith("clv1:")
        assert rows[0]["workspace_id"] == ids.tenant_uuid(ids.INSTALLATION)

    async def test_is_announced_in_the_installation_s_realm(
        self, ready: CheckpointService, superuser: asyncpg.Connection
    ) -> None:
        kinds = "SELECT workspace_id FROM vault.outbox WHERE type = 'vault.signing_key_created'"
        assert [row["workspace_id"] for row in await superuser.fetch(kinds)] == [ids.tenant_uuid(ids.INSTALLATION)]

    async def test_begins_no_second_log_under_another_origin(
        self, ready: CheckpointService, vault: "Vault", database: Database
    ) -> None:
        elsewhere = CheckpointService(database, vault.keyrings, "other.example")
        with pytest.raises(SettingsError, match=r"began as causeloop\.localhost, and their name cannot change"):
            await elsewhere.open_signing_key()

    async def test_before_it_is_open_nothing_is_signed(self, vault: "Vault", workspace: AuthContext) -> None:
        with pytest.raises(Unavailable, match="has not opened its signing key yet"):
            await sign(vault.checkpoints, workspace, LOG.asks(0, 1))


class TestGetAuditKey:
    async def test_is_named_like_each_log(self, ready: CheckpointService, workspace: AuthContext) -> None:
        mine = await ready.get_audit_key(workspace, GetAuditKey())
        other = await ready.get_audit_key(replace(workspace, tenant=ids.new("ws")), GetAuditKey())
        assert mine.key.startswith(f"{mine.origin}+")
        assert VerifierKey.parse(mine.key).public == VerifierKey.parse(other.key).public
        assert VerifierKey.parse(mine.key).id != VerifierKey.parse(other.key).id

    async def test_stays_the_same(
        self, ready: CheckpointService, new_vault: Callable[..., "Vault"], workspace: AuthContext
    ) -> None:
        restarted = new_vault().checkpoints
        await restarted.open_signing_key()
        first = await ready.get_audit_key(workspace, GetAuditKey())
        assert await restarted.get_audit_key(workspace, GetAuditKey()) == first
        assert first.algorithm == "ed25519"

    async def test_is_not_there_before_the_signing_key_is_open(self, vault: "Vault", workspace: AuthContext) -> None:
        with pytest.raises(Unavailable, match="has not opened its signing key yet"):
            await vault.checkpoints.get_audit_key(workspace, GetAuditKey())


class TestOpenEpoch:
    """P6: a log that cannot continue what was signed begins anew, in the open."""

    @pytest.fixture
    def epochs(self, database: Database) -> EpochService:
        return EpochService(database)

    @pytest.mark.parametrize(
        ("head", "proof"),
        [(LOG.head(7), []), (FORKED.head(8), []), (FORKED.head(20), FORKED.proof(8, 20))],
        ids=["shorter", "another root", "forked"],
    )
    async def test_ends_one_history_and_begins_another_under_another_name(
        self, ready: CheckpointService, epochs: EpochService, workspace: AuthContext, superuser: asyncpg.Connection,
        head: TreeHead, proof: list[bytes],
    ) -> None:  # fmt: skip
        """P6: the name changes, and the end of the epoch before is kept, and announced in the log."""
        old = await ready.get_audit_key(workspace, GetAuditKey())
        await sign(ready, workspace, LOG.asks(0, 8))
        opened = await epochs.open_epoch(workspace.tenant, Signed(1, LOG.head(8)), head, proof, "restored")
        assert (opened.epoch, opened.ended_size, opened.ended_root) == (2, 8, LOG.head(8).root.hex())

        new = await ready.get_audit_key(workspace, GetAuditKey())
        assert (new.epoch, new.origin) == (2, f"causeloop.localhost/log/{workspace.tenant}/2")
        stale = await sign(ready, workspace, FORKED.asks(8, 9))
        assert (stale.epoch, stale.checkpoint, stale.signed_size) == (2, None, 0)
        signed = await sign(ready, workspace, FORKED.asks(0, 9))
        assert signed.epoch == 2
        assert Checkpoint.verified(checkpoint_of(signed), VerifierKey.parse(new.key)).size == 9
        with pytest.raises(NotVerified, match="is not signed by the key"):
            Checkpoint.verified(checkpoint_of(signed), VerifierKey.parse(old.key))
        announced = "SELECT data FROM vault.outbox WHERE type = 'vault.epoch_opened' AND workspace_id = $1"
        assert EpochOpened.from_json(await superuser.fetchval(announced, workspace.tenant_uuid)) == opened
        kept = "SELECT epoch, size, root, reason FROM vault.epochs WHERE workspace_id = $1"
        (row,) = await superuser.fetch(kept, workspace.tenant_uuid)
        assert tuple(row) == (1, 8, LOG.head(8).root, "restored")

    async def test_is_refused_while_the_log_continues(
        self, ready: CheckpointService, epochs: EpochService, workspace: AuthContext
    ) -> None:
        """P6: an epoch is for a log that really does not continue; it is opened once."""
        await sign(ready, workspace, LOG.asks(0, 8))
        asked = (workspace.tenant, Signed(1, LOG.head(8)))
        with pytest.raises(Conflict, match="continues what was signed of it"):
            await epochs.open_epoch(*asked, LOG.head(20), LOG.proof(8, 20), "restored")
        await epochs.open_epoch(*asked, LOG.head(7), [], "restored")
        with pytest.raises(Conflict, match="signed more of this log meanwhile"):
            await epochs.open_epoch(*asked, LOG.head(7), [], "restored")
        with pytest.raises(Conflict, match="continues what was signed of it"):
            await epochs.open_epoch(workspace.tenant, Signed(2, EMPTY), LOG.head(7), [], "restored")

    async def test_is_kept_for_ever(
        self, ready: CheckpointService, epochs: EpochService, database: Database, workspace: AuthContext
    ) -> None:
        """P6: the end of an epoch is changed and deleted by nobody."""
        await sign(ready, workspace, LOG.asks(0, 8))
        await epochs.open_epoch(workspace.tenant, Signed(1, LOG.head(8)), LOG.head(7), [], "restored")
        for statement in ("UPDATE vault.epochs SET size = 9", "DELETE FROM vault.epochs"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with database.transaction(workspace) as tx:
                    await tx.execute(Statement.raw(statement))


class TestTheOrigin:
    @pytest.mark.parametrize("origin", ["https://a.example", "a b", "a+b", "A.example", "a.example/", "", "x" * 200])
    def test_is_a_name_without_scheme_space_or_plus(self, servers: Servers, origin: str) -> None:
        environ = {**servers.environ["vault"], "CAUSELOOP_ORIGIN": origin or "/"}
        with pytest.raises(SettingsError, match="CAUSELOOP_ORIGIN"):
            VaultSettings.load("vault", environ)

    def test_of_development_is_refused_in_production(self, servers: Servers) -> None:
        environ = {**servers.environ["vault"], "CAUSELOOP_ENV": "production"}
        with pytest.raises(SettingsError, match="CAUSELOOP_ORIGIN is the development one: set it to a host name"):
            VaultSettings.load("vault", environ)
