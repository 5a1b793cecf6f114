"""Keyrings: made once, read before transactions, and read again when something newer turns up."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import WorkspaceCreated
from causeloop_common.contracts.vault import CreateKey, Encrypt, PutSecret, RevealSecret, Seal
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, Internal, NotFound, Unavailable
from causeloop_dev.testing import Servers
from causeloop_vault.adapters.local_keys import LocalMasterKeys
from causeloop_vault.domain.envelope import NotOpened
from causeloop_vault.service import keyrings
from causeloop_vault.settings import VaultSettings

if TYPE_CHECKING:
    from conftest import Vault

NewVault = Callable[..., "Vault"]
T = TypeVar("T")
CREATE_KEY = CreateKey(name="orders", type="aes256-gcm")
ENCRYPT = Encrypt.model_validate({"name": "orders", "plaintext": "aHVudGVyMg=="})
REVEAL = RevealSecret(path="db/password")


def put(path: str = "db/password", value: str = "hunter2", version: int | None = None) -> PutSecret:
    return PutSecret.model_validate({"path": path, "value": value, "version": version})


async def events(superuser: asyncpg.Connection, ctx: AuthContext) -> list[str]:
    rows = await superuser.fetch("SELECT type FROM vault.outbox WHERE workspace_id = $1 ORDER BY seq", ctx.tenant_uuid)
    return [row["type"] for row in rows]


class Keeper:
    """A keeper of master keys that is far away: slow, sometimes silent, and attentive to open transactions."""

    def __init__(self, keys: list[bytes], database: Database) -> None:
        self._keys = LocalMasterKeys(keys)
        self._database = database
        self.calls: list[str] = []
        self.silent = False
        self.in_transaction = 0

    async def wrap(self, data_key: bytes, tenant: str, version: int) -> tuple[str, str]:
        return await self._away("wrap", partial(self._keys.wrap, data_key, tenant, version))

    async def unwrap(self, wrapped: str, master: str, tenant: str, version: int) -> bytes:
        return await self._away("unwrap", partial(self._keys.unwrap, wrapped, master, tenant, version))

    async def _away(self, call: str, answer: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(call)
        self.in_transaction += self._database.connected()._out
        await asyncio.sleep(60 if self.silent else 0.01)
        self.in_transaction += self._database.connected()._out
        return await answer()


@pytest.fixture
def keeper(servers: Servers, database: Database) -> Keeper:
    return Keeper(VaultSettings.load("vault", servers.environ["vault"]).keys(), database)


class TestMasterKeys:
    """One suite for every keeper."""

    @pytest.fixture(params=["local", "away"])
    def master_keys(self, request: pytest.FixtureRequest, database: Database) -> Any:
        return LocalMasterKeys([bytes(32)]) if request.param == "local" else Keeper([bytes(32)], database)

    async def test_a_wrapped_key_opens_at_its_place_alone(self, master_keys: keyrings.MasterKeys) -> None:
        key = bytes(range(32))
        wrapped, master = await master_keys.wrap(key, "ws_a", 1)

        assert await master_keys.unwrap(wrapped, master, "ws_a", 1) == key
        for tenant, version in (("ws_b", 1), ("ws_a", 2)):
            with pytest.raises(NotOpened):
                await master_keys.unwrap(wrapped, master, tenant, version)
        with pytest.raises(NotOpened, match="master key gone that wrapped"):
            await master_keys.unwrap(wrapped, "gone", "ws_a", 1)


class TestTheKeeper:
    async def test_is_asked_before_transactions_and_never_inside_one(
        self, new_vault: NewVault, keeper: Keeper, workspace: AuthContext
    ) -> None:
        for fresh in (new_vault(keeper=keeper), new_vault(keeper=keeper)):  # the first one makes the keyring
            await fresh.keyrings.check_master_key()
            await fresh.checkpoints.open_signing_key()
            await fresh.secrets.put_secret(workspace, put())
            await fresh.secrets.reveal_secret(workspace, REVEAL)
        await new_vault(keeper=keeper).secrets.reveal_secret(workspace, REVEAL)
        await new_vault(keeper=keeper).keys.create_key(workspace, CREATE_KEY)
        await new_vault(keeper=keeper).keys.encrypt(workspace, ENCRYPT)
        seal = Seal.model_validate({"purpose": "probe", "record": "r", "plaintext": "x"})
        await new_vault(keeper=keeper).sealing.seal(replace(workspace, issuer="tenancy"), seal)

        assert "wrap" in keeper.calls
        assert keeper.calls.count("unwrap") >= 8
        assert keeper.in_transaction == 0

    async def test_is_not_asked_for_a_keyring_that_is_remembered(
        self, new_vault: NewVault, keeper: Keeper, workspace: AuthContext
    ) -> None:
        vault = new_vault(keeper=keeper)
        await vault.secrets.put_secret(workspace, put())
        keeper.calls.clear()

        await vault.secrets.put_secret(workspace, put())
        await vault.secrets.reveal_secret(workspace, REVEAL)

        assert keeper.calls == []

    async def test_that_does_not_answer_refuses_in_time_and_does_nothing(
        self, new_vault: NewVault, keeper: Keeper, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keyrings, "KEEPER_SECONDS", 0.05)
        keeper.silent = True
        with pytest.raises(Unavailable, match="keeper of the master keys does not answer"):
            await new_vault(keeper=keeper).secrets.put_secret(workspace, put())

        keeper.silent = False
        with pytest.raises(NotFound):
            await new_vault(keeper=keeper).secrets.reveal_secret(workspace, REVEAL)


class TestWorkspaceCreated:
    """The event as the vault follows it."""

    @staticmethod
    async def deliver(vault: "Vault", ctx: AuthContext, event_id: UUID) -> None:
        by_event = replace(ctx, principal="svc_vault", permissions=frozenset(), credential=None, issuer="tenancy")
        await vault.keyrings.workspace_created(by_event, WorkspaceCreated(workspace_id=ctx.tenant), event_id)

    async def test_prepares_the_keyring_once_however_often_and_wherever_it_is_delivered(
        self, new_vault: NewVault, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        event_id = ids.uuid7()
        await asyncio.gather(*(self.deliver(new_vault(), workspace, event_id) for _ in range(5)))
        await self.deliver(new_vault(), workspace, event_id)
        assert await events(superuser, workspace) == ["vault.keyring_created"]

        await new_vault().secrets.put_secret(workspace, put())
        assert await events(superuser, workspace) == ["vault.keyring_created", "vault.secret_written"]

    async def test_races_with_the_first_secret_and_the_log_does_not_show_which_was_faster(
        self, new_vault: NewVault, as_user: Callable[..., AuthContext], superuser: asyncpg.Connection
    ) -> None:
        for _ in range(10):
            workspace = as_user(ids.new("ws"))
            await asyncio.gather(
                self.deliver(new_vault(), workspace, ids.uuid7()), new_vault().secrets.put_secret(workspace, put())
            )
            rows = await superuser.fetch(
                "SELECT type, actor, credential, request_id FROM vault.outbox WHERE workspace_id = $1 ORDER BY seq",
                workspace.tenant_uuid,
            )
            assert [tuple(row) for row in rows] == [
                ("vault.keyring_created", "svc_vault", None, workspace.request_id),
                ("vault.secret_written", workspace.principal, workspace.credential, workspace.request_id),
            ]

    async def test_waits_for_the_keeper_of_the_master_keys_and_is_claimed_only_with_its_effect(
        self, new_vault: NewVault, keeper: Keeper, workspace: AuthContext, superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        event_id = ids.uuid7()
        with monkeypatch.context() as patched:
            patched.setattr(keyrings, "KEEPER_SECONDS", 0.05)
            keeper.silent = True
            with pytest.raises(Unavailable, match="keeper of the master keys does not answer"):
                await self.deliver(new_vault(keeper=keeper), workspace, event_id)
        keeper.silent = False

        await self.deliver(new_vault(keeper=keeper), workspace, event_id)

        assert keeper.in_transaction == 0
        assert await events(superuser, workspace) == ["vault.keyring_created"]

    async def test_prepares_nothing_for_another_workspace(
        self, new_vault: NewVault, as_user: Callable[..., AuthContext], superuser: asyncpg.Connection
    ) -> None:
        one, other = as_user(ids.new("ws")), as_user(ids.new("ws"))
        event_id = ids.uuid7()
        await self.deliver(new_vault(), one, event_id)
        assert await events(superuser, other) == []

        await self.deliver(new_vault(), other, event_id)  # an id counts in its own workspace
        assert await events(superuser, other) == ["vault.keyring_created"]


class TestKeyring:
    async def test_is_made_by_the_first_thing_that_is_sealed_and_not_by_a_reader(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        with pytest.raises(NotFound):
            await vault.secrets.reveal_secret(workspace, REVEAL)
        with pytest.raises(NotFound):
            await vault.keys.encrypt(workspace, ENCRYPT)
        with pytest.raises(Conflict):
            await vault.secrets.put_secret(workspace, put(version=7))
        assert await events(superuser, workspace) == []

        await vault.secrets.put_secret(workspace, put())
        assert await events(superuser, workspace) == ["vault.keyring_created", "vault.secret_written"]

    async def test_is_prepared_once(
        self, new_vault: NewVault, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        made = await asyncio.gather(*(new_vault().keyrings.prepare(workspace) for _ in range(10)))

        assert all(keyring == made[0] for keyring in made)
        assert made[0].version == 1
        assert await events(superuser, workspace) == ["vault.keyring_created"]

    async def test_a_version_that_the_database_does_not_have_either_is_refused(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        await superuser.execute("SET session_replication_role = replica")
        await superuser.execute(
            "UPDATE vault.secret_versions SET sealed = replace(sealed, 'clv1:1:', 'clv1:2:') WHERE workspace_id = $1",
            workspace.tenant_uuid,
        )

        with pytest.raises(Internal, match="keyring lacks a data key"):
            await vault.secrets.reveal_secret(workspace, REVEAL)
        assert (await events(superuser, workspace))[-1] == "vault.secret_written"

    async def test_is_remembered_until_it_is_forgotten(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        await vault.secrets.put_secret(workspace, put())  # from here on it is remembered
        await superuser.execute("SET session_replication_role = replica")
        await superuser.execute(
            "UPDATE vault.keyrings SET master = 'gone' WHERE workspace_id = $1", workspace.tenant_uuid
        )

        await vault.secrets.put_secret(workspace, put())
        vault.data_keys.forget(workspace.tenant)
        with pytest.raises(Internal, match="data key does not open"):
            await vault.secrets.put_secret(workspace, put())

    async def test_the_canary_tells_a_wrong_master_key(self, vault: "Vault", new_vault: NewVault) -> None:
        await vault.keyrings.check_master_key()
        with pytest.raises(Unavailable, match="CAUSELOOP_MASTER_KEY does not open this database's keys"):
            await new_vault(bytes(32)).keyrings.check_master_key()

    async def test_a_key_made_in_a_transaction_that_failed_is_not_used(
        self, vault: "Vault", workspace: AuthContext
    ) -> None:
        with pytest.raises(Conflict):
            await vault.secrets.put_secret(workspace, put(version=7))
        await vault.secrets.put_secret(workspace, put(value="kept"))
        shown = await vault.secrets.reveal_secret(workspace, RevealSecret(path="db/password"))
        assert shown.value.get_secret_value() == "kept"
