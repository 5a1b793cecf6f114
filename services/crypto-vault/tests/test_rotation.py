"""Rotating a keyring as a job: the use cases, and the steps as the vault's worker has them done."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.jobs import CancelJob, GetJob, JobView
from causeloop_common.contracts.tenancy import Resolve, Standing
from causeloop_common.contracts.vault import (
    CreateKey,
    DataKeyVersion,
    Decrypt,
    Encrypt,
    GetKeyring,
    PutSecret,
    ReencryptKeyring,
    RevealSecret,
    RotateKeyring,
)
from causeloop_common.database import Database, role_connections
from causeloop_common.errors import Conflict
from causeloop_common.idempotency import Replayed
from causeloop_common.messaging import CommandRouter
from causeloop_common.permissions import ROLES
from causeloop_common.worker import JobService, Runs, Worker, runs, takes
from causeloop_dev.testing import Servers, context
from causeloop_vault.domain import envelope
from causeloop_vault.repository import reencryption as walking
from causeloop_vault.service import Reencryption, RotationService
from causeloop_vault.settings import VaultSettings

if TYPE_CHECKING:
    from conftest import Vault

PLAIN = base64.b64encode(b"hunter2").decode()


@pytest.fixture(autouse=True)
async def alone(superuser: asyncpg.Connection) -> AsyncIterator[None]:
    """No job of another test is due, and none of this one afterwards."""
    await superuser.execute("DELETE FROM vault.jobs WHERE outcome IS NULL")
    yield
    await superuser.execute("DELETE FROM vault.jobs WHERE outcome IS NULL")


@dataclass(frozen=True)
class Rotating:
    """A tenant's keyring, what is sealed under it, and its jobs."""

    vault: "Vault"
    rotation: RotationService
    jobs: JobService
    superuser: asyncpg.Connection
    ctx: AuthContext

    def of(self, ctx: AuthContext) -> "Rotating":
        """The keyring of another tenant."""
        return replace(self, ctx=ctx)

    async def fill(self, secrets: int) -> None:
        for number in range(secrets):
            command = {"path": f"s/{number}", "value": f"value {number}"}
            await self.vault.secrets.put_secret(self.ctx, PutSecret.model_validate(command))

    async def require_filled(self, secrets: int) -> None:
        """All of these secrets have their values."""
        for number in range(secrets):
            shown = await self.vault.secrets.reveal_secret(self.ctx, RevealSecret(path=f"s/{number}"))
            assert shown.value.get_secret_value() == f"value {number}"

    async def rotate(self) -> JobView:
        return await self.rotation.rotate_keyring(self.ctx, RotateKeyring())

    async def versions(self) -> list[DataKeyVersion]:
        return (await self.rotation.get_keyring(self.ctx, GetKeyring())).versions

    async def ended(self, job: JobView, state: str = "done") -> JobView:
        async with asyncio.timeout(20):
            while (view := await self.jobs.get_job(self.ctx, GetJob(id=job.id))).state != state:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return view

    async def events(self, kind: str) -> list[dict[str, Any]]:
        rows = await self.superuser.fetch(
            "SELECT data FROM vault.outbox WHERE workspace_id = $1 AND type = $2 ORDER BY seq",
            self.ctx.tenant_uuid, kind,
        )  # fmt: skip
        return [orjson.loads(row["data"]) for row in rows]

    async def behind(self, version: int) -> int:
        """How many ciphertexts of the tenant are under another version."""
        found = 0
        for table in ("keys", "secret_versions"):
            rows = await self.superuser.fetch(
                f"SELECT sealed FROM vault.{table} WHERE workspace_id = $1",
                self.ctx.tenant_uuid,
            )
            found += sum(envelope.version_of(row["sealed"]) != version for row in rows)
        return found


@pytest.fixture
def rotating(vault: "Vault", database: Database, superuser: asyncpg.Connection, workspace: AuthContext) -> Rotating:
    rotation = RotationService(database, vault.keyrings, Reencryption())
    return Rotating(vault, rotation, JobService(database), superuser, workspace)


@pytest.fixture
async def worker(
    servers: Servers, database: Database, rotating: Rotating, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Worker]:
    """The vault's worker; tenancy answers that everybody is an owner."""
    monkeypatch.setattr(takes, "LOOK_SECONDS", 0.05)

    class Tenancy:
        async def resolve(self, ctx: AuthContext, command: Resolve) -> Standing:
            return Standing(role="owner", permissions=sorted(ROLES["owner"]))

    async with servers.connected("tenancy") as tenancy, servers.connected("vault") as bus:
        router = CommandRouter({Resolve: Tenancy().resolve})
        await router.start(tenancy, workers=2)
        await tenancy.flush()
        dsn = VaultSettings.load("vault", servers.environ["vault"]).dsn("causeloop_vault_jobs")
        connections = role_connections(dsn, "causeloop_vault_jobs")
        made = Worker(connections, "vault", bus, Runs(database, bus, [rotating.rotation.reencrypt_keyring]).run)
        monkeypatch.setattr(database, "enqueued", made.wake)
        task = asyncio.create_task(made.run())
        yield made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connections.close(1)
        await router.drain(1)


class TestGetKeyring:
    async def test_shows_the_versions_newest_first(self, rotating: Rotating) -> None:
        assert await rotating.versions() == []
        await rotating.fill(1)
        await rotating.rotate()
        shown = await rotating.versions()
        assert [(key.version, key.state) for key in shown] == [(2, "primary"), (1, "enabled")]
        assert shown[0].created_at > shown[1].created_at

    async def test_shows_nothing_of_another_tenant(self, rotating: Rotating) -> None:
        await rotating.fill(1)
        assert await rotating.of(context(ids.new("ws"))).versions() == []


class TestRotateKeyring:
    async def test_makes_a_key_and_a_job_in_one_transaction(self, rotating: Rotating, workspace: AuthContext) -> None:
        await rotating.fill(1)
        job = await rotating.rotate()
        assert (job.kind, job.state, job.created_by) == ("reencrypt_keyring", "waiting", workspace.principal)
        assert await rotating.events("vault.keyring_rotated") == [{"keyring": workspace.tenant, "version": 2}]

    async def test_while_a_job_of_the_kind_is_open_is_a_conflict_that_names_it(self, rotating: Rotating) -> None:
        job = await rotating.rotate()
        with pytest.raises(Conflict, match=job.id):
            await rotating.rotate()
        assert len(await rotating.events("vault.keyring_rotated")) == 1
        await rotating.of(context(ids.new("ws"))).rotate()  # another tenant's is another matter

    async def test_of_racers_one_is_first(self, rotating: Rotating) -> None:
        answers = await asyncio.gather(*(rotating.rotate() for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(answer, JobView) for answer in answers) == 1
        assert sum(isinstance(answer, Conflict) for answer in answers) == 4

    async def test_under_the_same_key_is_done_once(self, rotating: Rotating, workspace: AuthContext) -> None:
        keyed = replace(workspace, idempotency=Idempotency("again", "print"))
        job = await rotating.of(keyed).rotate()
        with pytest.raises(Replayed) as replayed:
            await rotating.of(keyed).rotate()
        assert JobView.model_validate_json(replayed.value.reply) == job
        assert len(await rotating.events("vault.keyring_rotated")) == 1

    async def test_seals_under_the_new_key_at_once(self, rotating: Rotating, workspace: AuthContext) -> None:
        await rotating.fill(1)
        await rotating.rotate()
        await rotating.vault.secrets.put_secret(workspace, PutSecret.model_validate({"path": "new", "value": "v"}))
        assert await rotating.behind(2) == 1


class TestReencryptKeyring:
    async def test_seals_everything_anew_and_everything_opens(
        self, rotating: Rotating, worker: Worker, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(walking, "MOST_ROWS", 7)
        await rotating.fill(30)
        await rotating.vault.keys.create_key(workspace, CreateKey(name="orders", type="aes256-gcm"))
        sealed = await rotating.vault.keys.encrypt(
            workspace, Encrypt.model_validate({"name": "orders", "plaintext": PLAIN})
        )
        job = await rotating.rotate()

        view = await rotating.ended(job)

        assert view.result == "31 of 31 values and keys are sealed under version 2."
        assert (view.progress.done, view.progress.total) == (31, 31)
        assert await rotating.behind(2) == 0
        counts = [event["count"] for event in await rotating.events("vault.keyring_reencrypted")]
        assert sum(counts) == 31
        assert len(counts) > 4
        await rotating.require_filled(30)
        opened = await rotating.vault.keys.decrypt(workspace, Decrypt(name="orders", ciphertext=sealed.ciphertext))
        assert opened.plaintext is not None
        assert opened.plaintext.get_secret_value() == PLAIN

    async def test_cancelled_halfway_leaves_all_readable_and_is_started_again(
        self, rotating: Rotating, worker: Worker, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(walking, "MOST_ROWS", 3)
        monkeypatch.setattr(runs, "TURN_SECONDS", 0.0)  # back to the queue after each step
        monkeypatch.setattr(takes, "LOOK_SECONDS", 0.3)
        await rotating.fill(30)
        job = await rotating.rotate()
        async with asyncio.timeout(20):
            while (await rotating.jobs.get_job(workspace, GetJob(id=job.id))).progress.done < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await rotating.jobs.cancel_job(workspace, CancelJob(id=job.id))
        view = await rotating.ended(job, "cancelled")
        left = await rotating.behind(2)
        assert 0 < left < 30
        assert view.progress.done == 30 - left
        assert view.progress.detail == f"{30 - left} of 30 values and keys are sealed under version 2."
        await rotating.require_filled(30)

        again = await rotating.rotate()
        await rotating.ended(again)
        assert await rotating.behind(3) == 0

    async def test_touches_no_other_tenant(self, rotating: Rotating, worker: Worker) -> None:
        other = context(ids.new("ws"))
        await rotating.fill(3)
        await rotating.of(other).fill(3)
        job = await rotating.rotate()
        await rotating.ended(job)
        assert await rotating.of(other).behind(1) == 0
        assert await rotating.of(other).events("vault.keyring_reencrypted") == []

    def test_needs_the_permission_of_the_command_that_begins_it(self) -> None:
        assert ReencryptKeyring.permission == RotateKeyring.permission
