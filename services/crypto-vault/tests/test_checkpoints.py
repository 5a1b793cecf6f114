"""The witness: a log is signed while it grows, and in no other case."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import EpochOpened, GetAuditKey, SignCheckpoint
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, Unavailable
from causeloop_common.settings import SettingsError
from causeloop_common.statements import Statement
from causeloop_dev.testing import Servers
from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import EMPTY_ROOT, Frontier, Span, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_vault.domain import witness
from causeloop_vault.domain.witness import EMPTY, Head, Stale
from causeloop_vault.repository import Signed
from causeloop_vault.service import CheckpointService, EpochService
from causeloop_vault.settings import VaultSettings

if TYPE_CHECKING:
    from conftest import Vault


class Log:
    """A log in memory, to be signed."""

    def __init__(self, *leaves: bytes) -> None:
        self.hashes = [leaf_hash(leaf) for leaf in leaves]

    def head(self, size: int) -> Head:
        return Head(size, self._root(Span(0, size)))

    def proof(self, old: int, new: int) -> list[bytes]:
        return [self._root(span) for span in merkle.consistency_spans(old, new)]

    def asks(self, old: int, new: int) -> SignCheckpoint:
        proof = [sibling.hex() for sibling in self.proof(old, new)]
        return SignCheckpoint(old_size=old, size=new, root=self.head(new).root.hex(), proof=proof)

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


@pytest.fixture
async def ready(vault: "Vault") -> CheckpointService:
    """Checkpoints of a vault that has opened its signing key."""
    await vault.checkpoints.open_signing_key()
    return vault.checkpoints


class TestSignCheckpoint:
    async def test_signs_what_grows_and_the_key_verifies_it(
        self, ready: CheckpointService, workspace: AuthContext
    ) -> None:
        key = VerifierKey.parse((await ready.get_audit_key(workspace, GetAuditKey())).key)
        for old, new in ((0, 1), (1, 8), (8, 20), (20, 20)):
            signed = await ready.sign_checkpoint(workspace, LOG.asks(old, new))
            checkpoint = Checkpoint.verified(signed.checkpoint, key)
            assert checkpoint == Checkpoint(f"causeloop.localhost/log/{workspace.tenant}", new, LOG.head(new).root)

    async def test_an_empty_log_can_be_signed(self, ready: CheckpointService, workspace: AuthContext) -> None:
        empty = SignCheckpoint(old_size=0, size=0, root=EMPTY_ROOT.hex(), proof=[])
        assert "\n0\n" in (await ready.sign_checkpoint(workspace, empty)).checkpoint
        with pytest.raises(Conflict, match="another root than was signed at the same size, 0"):
            await ready.sign_checkpoint(workspace, empty.model_copy(update={"root": "00" * 32}))

    @pytest.mark.parametrize(
        ("asked", "why"),
        [
            (LOG.asks(0, 7), "has size 8"),
            (FORKED.asks(8, 8), "another root than was signed at the same size"),
            (FORKED.asks(8, 20), "leads to another root"),
            (LOG.asks(8, 20).model_copy(update={"proof": []}), "ends before the root"),
            (LOG.asks(8, 20).model_copy(update={"proof": ["00" * 32] * 60}), "longer than the path"),
            (LOG.asks(0, 20), "has size 8"),
        ],
        ids=["smaller", "another root", "forked", "without proof", "padded proof", "from elsewhere"],
    )
    async def test_refuses_what_does_not_continue_and_remembers_what_was_signed(
        self, ready: CheckpointService, workspace: AuthContext, asked: SignCheckpoint, why: str
    ) -> None:
        await ready.sign_checkpoint(workspace, LOG.asks(0, 8))
        with pytest.raises(Conflict, match=why):
            await ready.sign_checkpoint(workspace, asked)
        await ready.sign_checkpoint(workspace, LOG.asks(8, 20))

    async def test_what_was_signed_outlives_the_process(
        self, ready: CheckpointService, new_vault: Callable[..., "Vault"], workspace: AuthContext
    ) -> None:
        first = await ready.sign_checkpoint(workspace, LOG.asks(0, 8))
        again = new_vault().checkpoints
        await again.open_signing_key()
        assert await again.sign_checkpoint(workspace, LOG.asks(0, 8)) == first
        with pytest.raises(Conflict, match="another root"):
            await again.sign_checkpoint(workspace, FORKED.asks(0, 8))

    async def test_tenants_have_histories_of_their_own(
        self, ready: CheckpointService, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await ready.sign_checkpoint(workspace, LOG.asks(0, 8))
        other = as_user(ids.new("ws"))
        signed = await ready.sign_checkpoint(other, FORKED.asks(0, 8))
        key = VerifierKey.parse((await ready.get_audit_key(workspace, GetAuditKey())).key)
        with pytest.raises(NotVerified, match="is not signed by the key"):
            Checkpoint.verified(signed.checkpoint, key)

    async def test_of_many_who_race_one_history_comes_out(
        self, ready: CheckpointService, workspace: AuthContext
    ) -> None:
        racers = [log.asks(0, size) for log in (LOG, FORKED) for size in range(8, 20)]
        ended = await asyncio.gather(
            *(ready.sign_checkpoint(workspace, asked) for asked in racers), return_exceptions=True
        )
        assert sum(not isinstance(end, BaseException) for end in ended) == 1
        assert all("size" in end.detail for end in ended if isinstance(end, Conflict))

    async def test_writes_no_event_which_would_move_the_log(
        self, ready: CheckpointService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await ready.sign_checkpoint(workspace, LOG.asks(0, 8))
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
            await vault.checkpoints.sign_checkpoint(workspace, LOG.asks(0, 1))


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
        head: Head, proof: list[bytes],
    ) -> None:  # fmt: skip
        """P6: the name changes, and the end of the epoch before is kept, and announced in the log."""
        old = await ready.get_audit_key(workspace, GetAuditKey())
        await ready.sign_checkpoint(workspace, LOG.asks(0, 8))
        opened = await epochs.open_epoch(workspace.tenant, Signed(1, LOG.head(8)), head, proof, "restored")
        assert (opened.epoch, opened.ended_size, opened.ended_root) == (2, 8, LOG.head(8).root.hex())

        new = await ready.get_audit_key(workspace, GetAuditKey())
        assert (new.epoch, new.origin) == (2, f"causeloop.localhost/log/{workspace.tenant}/2")
        with pytest.raises(Conflict, match="has size 0"):
            await ready.sign_checkpoint(workspace, FORKED.asks(8, 9))
        signed = await ready.sign_checkpoint(workspace, FORKED.asks(0, 9))
        assert signed.epoch == 2
        assert Checkpoint.verified(signed.checkpoint, VerifierKey.parse(new.key)).size == 9
        with pytest.raises(NotVerified, match="is not signed by the key"):
            Checkpoint.verified(signed.checkpoint, VerifierKey.parse(old.key))
        announced = "SELECT data FROM vault.outbox WHERE type = 'vault.epoch_opened' AND workspace_id = $1"
        assert EpochOpened.from_json(await superuser.fetchval(announced, workspace.tenant_uuid)) == opened
        kept = "SELECT epoch, size, root, reason FROM vault.epochs WHERE workspace_id = $1"
        (row,) = await superuser.fetch(kept, workspace.tenant_uuid)
        assert tuple(row) == (1, 8, LOG.head(8).root, "restored")

    async def test_is_refused_while_the_log_continues(
        self, ready: CheckpointService, epochs: EpochService, workspace: AuthContext
    ) -> None:
        """P6: an epoch is for a log that really does not continue; it is opened once."""
        await ready.sign_checkpoint(workspace, LOG.asks(0, 8))
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
        await ready.sign_checkpoint(workspace, LOG.asks(0, 8))
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
