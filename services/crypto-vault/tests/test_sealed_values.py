"""Sealed values of other services: who may ask for which, what opens where, and what is recorded."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.contracts.vault import DeleteSealedValue, OpenSealedValue, Seal, StoreSealedValue
from causeloop_common.errors import Forbidden, Internal, NotFound

if TYPE_CHECKING:
    from conftest import Vault

NewVault = Callable[..., "Vault"]
CANARY = "s3cr3t-canary"


@pytest.fixture
def tenancy(workspace: AuthContext) -> AuthContext:
    """A workspace, asked for by the service that has the tests' purpose."""
    return replace(workspace, issuer="tenancy")


def store(record: str = "r-1", plaintext: str = CANARY, purpose: str = "probe") -> StoreSealedValue:
    return StoreSealedValue.model_validate({"purpose": purpose, "record": record, "plaintext": plaintext})


async def opened(vault: "Vault", ctx: AuthContext, record: str = "r-1", purpose: str = "probe") -> str:
    answer = await vault.sealing.open_sealed_value(ctx, OpenSealedValue(purpose=purpose, record=record))
    return answer.plaintext.get_secret_value()


async def delete(vault: "Vault", ctx: AuthContext, record: str = "r-1", purpose: str = "probe") -> None:
    await vault.sealing.delete_sealed_value(ctx, DeleteSealedValue(purpose=purpose, record=record))


async def events(superuser: asyncpg.Connection, ctx: AuthContext) -> list[tuple[str, dict[str, Any]]]:
    rows = await superuser.fetch(
        "SELECT type, data FROM vault.outbox WHERE workspace_id = $1 ORDER BY seq", ctx.tenant_uuid
    )
    return [(row["type"], orjson.loads(row["data"])) for row in rows if row["type"] != "vault.keyring_created"]


class TestSeal:
    async def test_is_for_a_purpose_of_the_asking_service(self, vault: "Vault", workspace: AuthContext) -> None:
        command = Seal.model_validate({"purpose": "session", "record": "ses_1", "plaintext": "personal"})

        sealed = await vault.sealing.seal(replace(workspace, issuer="auth"), command)
        assert sealed.ciphertext.startswith("clv1:1:")

        probe = command.model_copy(update={"purpose": "probe"})
        assert (await vault.sealing.seal(replace(workspace, issuer="tenancy"), probe)).ciphertext.startswith("clv1:1:")
        for issuer, foreign in (("tenancy", command), ("auth", probe), ("vault", command)):
            with pytest.raises(Forbidden, match=f"purpose '{foreign.purpose}' is not the asking service's"):
                await vault.sealing.seal(replace(workspace, issuer=issuer), foreign)

    async def test_stores_and_records_nothing(
        self, vault: "Vault", tenancy: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        command = Seal.model_validate({"purpose": "probe", "record": "r-1", "plaintext": "personal"})
        await vault.sealing.seal(tenancy, command)

        assert await events(superuser, tenancy) == []
        with pytest.raises(NotFound):
            await opened(vault, tenancy)


class TestStoreSealedValue:
    async def test_is_stored_sealed_and_recorded(
        self, vault: "Vault", tenancy: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.sealing.store_sealed_value(tenancy, store())

        (row,) = await superuser.fetch("SELECT * FROM vault.sealed_values WHERE workspace_id = $1", tenancy.tenant_uuid)
        assert (row["purpose"], row["record"]) == ("tenancy/probe", "r-1")
        assert CANARY not in str(row)
        recorded = await events(superuser, tenancy)
        assert recorded == [("vault.sealed_value_stored", {"purpose": "tenancy/probe", "record": "r-1"})]

    async def test_a_record_has_the_value_that_was_stored_last(self, vault: "Vault", tenancy: AuthContext) -> None:
        for plaintext in ("one", "two", "zwei ✓"):
            await vault.sealing.store_sealed_value(tenancy, store(plaintext=plaintext))
        assert await opened(vault, tenancy) == "zwei ✓"

    async def test_a_purpose_of_another_service_is_refused(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        for issuer, purpose in (("auth", "probe"), ("tenancy", "session"), ("gateway", "probe"), ("auth", "other")):
            with pytest.raises(Forbidden, match=f"purpose '{purpose}' is not the asking service's"):
                await vault.sealing.store_sealed_value(replace(workspace, issuer=issuer), store(purpose=purpose))
        assert await events(superuser, workspace) == []


class TestOpenSealedValue:
    async def test_is_recorded_each_time_before_the_answer(
        self, vault: "Vault", tenancy: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.sealing.store_sealed_value(tenancy, store())
        for _ in range(2):
            assert await opened(vault, tenancy) == CANARY

        recorded = await events(superuser, tenancy)
        entry = ("vault.sealed_value_opened", {"purpose": "tenancy/probe", "record": "r-1"})
        assert recorded[1:] == [entry, entry]

        async with superuser.transaction():
            await superuser.execute("LOCK TABLE vault.outbox IN ACCESS EXCLUSIVE MODE")
            waiting = asyncio.create_task(opened(vault, tenancy))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert await waiting == CANARY

    async def test_of_what_is_not_there_is_refused_and_not_recorded(
        self, vault: "Vault", tenancy: AuthContext, as_user: Callable[..., AuthContext], superuser: asyncpg.Connection
    ) -> None:
        await vault.sealing.store_sealed_value(tenancy, store())
        stranger = replace(as_user(ids.new("ws")), issuer="tenancy")
        for ctx, record in ((tenancy, "r-2"), (stranger, "r-1")):
            with pytest.raises(NotFound, match=f"There is no sealed value of '{record}' for this purpose"):
                await opened(vault, ctx, record)
        assert await events(superuser, stranger) == []
        assert len(await events(superuser, tenancy)) == 1

    async def test_a_purpose_of_another_service_is_refused(self, vault: "Vault", tenancy: AuthContext) -> None:
        await vault.sealing.store_sealed_value(tenancy, store())
        for issuer in ("auth", "audit", "gateway"):
            with pytest.raises(Forbidden, match="purpose 'probe' is not the asking service's"):
                await opened(vault, replace(tenancy, issuer=issuer))

    async def test_a_value_moved_to_another_place_does_not_open(
        self, vault: "Vault", tenancy: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        for record in ("r-1", "r-2"):
            await vault.sealing.store_sealed_value(tenancy, store(record))
        await vault.sealing.store_sealed_value(replace(tenancy, issuer="auth"), store("r-1", purpose="session"))
        await superuser.execute("SET session_replication_role = replica")
        for purpose, record in (("tenancy/probe", "r-2"), ("auth/session", "r-1")):
            await superuser.execute(
                """
                UPDATE vault.sealed_values SET sealed = (
                    SELECT sealed FROM vault.sealed_values
                    WHERE workspace_id = $1 AND purpose = 'tenancy/probe' AND record = 'r-1'
                ) WHERE workspace_id = $1 AND purpose = $2 AND record = $3
                """,
                tenancy.tenant_uuid, purpose, record,
            )  # fmt: skip
        assert await opened(vault, tenancy) == CANARY
        for issuer, purpose, record in (("tenancy", "probe", "r-2"), ("auth", "session", "r-1")):
            with pytest.raises(Internal, match="does not open at its place"):
                await opened(vault, replace(tenancy, issuer=issuer), record, purpose)


class TestDeleteSealedValue:
    async def test_is_recorded_and_a_retry_does_no_harm(
        self, vault: "Vault", tenancy: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        for record in ("r-1", "r-2"):
            await vault.sealing.store_sealed_value(tenancy, store(record))
        for _ in range(2):
            await delete(vault, tenancy)

        with pytest.raises(NotFound):
            await opened(vault, tenancy)
        assert await opened(vault, tenancy, "r-2") == CANARY
        recorded = [kind for kind, _ in await events(superuser, tenancy)]
        assert recorded.count("vault.sealed_value_deleted") == 1

    async def test_a_purpose_of_another_service_and_another_tenant_are_out_of_reach(
        self, vault: "Vault", tenancy: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await vault.sealing.store_sealed_value(tenancy, store())
        with pytest.raises(Forbidden, match="purpose 'probe' is not the asking service's"):
            await delete(vault, replace(tenancy, issuer="auth"))
        await delete(vault, replace(as_user(ids.new("ws")), issuer="tenancy"))
        assert await opened(vault, tenancy) == CANARY


class TestRecordEnded:
    """The end of a record, as the vault follows it: in these tests a member is one."""

    @staticmethod
    async def deliver(vault: "Vault", ctx: AuthContext, person: str, event_id: UUID) -> None:
        await vault.sealing.record_ended(ctx.of_service("vault"), MemberAdded(person_id=person, role="owner"), event_id)

    async def test_deletes_its_value_once_and_no_other(
        self, vault: "Vault", tenancy: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        event_id = ids.uuid7()
        for record in (tenancy.principal, "r-2"):
            await vault.sealing.store_sealed_value(tenancy, store(record))
        await vault.sealing.store_sealed_value(
            replace(tenancy, issuer="auth"), store(tenancy.principal, purpose="session")
        )

        await asyncio.gather(*(self.deliver(vault, tenancy, tenancy.principal, event_id) for _ in range(5)))

        with pytest.raises(NotFound):
            await opened(vault, tenancy, tenancy.principal)
        assert await opened(vault, tenancy, "r-2") == CANARY
        assert await opened(vault, replace(tenancy, issuer="auth"), tenancy.principal, "session") == CANARY
        deleted = [data for kind, data in await events(superuser, tenancy) if kind == "vault.sealed_value_deleted"]
        assert deleted == [{"purpose": "tenancy/probe", "record": tenancy.principal}]

        await vault.sealing.store_sealed_value(tenancy, store(tenancy.principal))
        await self.deliver(vault, tenancy, tenancy.principal, event_id)  # the same event, later
        assert await opened(vault, tenancy, tenancy.principal) == CANARY

    async def test_of_another_tenant_deletes_nothing(
        self, vault: "Vault", tenancy: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await vault.sealing.store_sealed_value(tenancy, store(tenancy.principal))
        await self.deliver(vault, as_user(ids.new("ws")), tenancy.principal, ids.uuid7())
        assert await opened(vault, tenancy, tenancy.principal) == CANARY
