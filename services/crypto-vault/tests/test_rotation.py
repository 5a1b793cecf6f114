"""Rotating a keyring as a job: the use cases, and the steps as the vault's worker has them done."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
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
    Decrypt,
    Encrypt,
    GetKeyring,
    PutSecret,
    ReencryptKeyring,
    RevealSecret,
    RotateKeyring,
)
from causeloop_common.database import Database
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


@pytest.fixture
def rotation(vault: "Vault", database: Database) -> RotationService:
    return RotationService(database, vault.keyrings, Reencryption())


@pytest.fixture
def about_jobs(database: Database) -> JobService:
    return JobService(database)


@pytest.fixture
async def worker(
    servers: Servers, database: Database, rotation: RotationService, monkeypatch: pytest.MonkeyPatch
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
        made = Worker(dsn, "vault", bus, Runs(database, bus, [rotation.reencrypt_keyring]).run)
        monkeypatch.setattr(database, "enqueued", made.wake)
        task = asyncio.create_task(made.run())
        yield made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await router.drain(1)


async def ended(about_jobs: JobService, ctx: AuthContext, job: str, state: str = "done") -> JobView:
    async with asyncio.timeout(20):
        while (view := await about_jobs.get_job(ctx, GetJob(id=job))).state != state:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return view


async def fill(vault: "Vault", ctx: AuthContext, secrets: int) -> None:
    for number in range(secrets):
        command = {"path": f"s/{number}", "value": f"value {number}"}
        await vault.secrets.put_secret(ctx, PutSecret.model_validate(command))


async def events(superuser: asyncpg.Connection, ctx: AuthContext, kind: str) -> list[dict[str, Any]]:
    rows = await superuser.fetch(
        "SELECT data FROM vault.outbox WHERE workspace_id = $1 AND type = $2 ORDER BY seq", ctx.tenant_uuid, kind
    )
    return [orjson.loads(row["data"]) for row in rows]


async def behind(superuser: asyncpg.Connection, ctx: AuthContext, version: int) -> int:
    """How many ciphertexts of a tenant lie under another version."""
    found = 0
    for table in ("keys", "secret_versions"):
        rows = await superuser.fetch(f"SELECT sealed FROM vault.{table} WHERE workspace_id = $1", ctx.tenant_uuid)
        found += sum(envelope.version_of(row["sealed"]) != version for row in rows)
    return found


class TestGetKeyring:
    async def test_shows_the_versions_newest_first(
        self, vault: "Vault", rotation: RotationService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        assert (await rotation.get_keyring(workspace, GetKeyring())).versions == []
        await fill(vault, workspace, 1)
        await rotation.rotate_keyring(workspace, RotateKeyring())
        shown = (await rotation.get_keyring(workspace, GetKeyring())).versions
        assert [(key.version, key.state) for key in shown] == [(2, "primary"), (1, "enabled")]
        assert shown[0].created_at > shown[1].created_at

    async def test_shows_nothing_of_another_tenant(
        self, vault: "Vault", rotation: RotationService, workspace: AuthContext
    ) -> None:
        await fill(vault, workspace, 1)
        assert (await rotation.get_keyring(context(ids.new("ws")), GetKeyring())).versions == []


class TestRotateKeyring:
    async def test_makes_a_key_and_a_job_in_one_transaction(
        self, vault: "Vault", rotation: RotationService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await fill(vault, workspace, 1)
        job = await rotation.rotate_keyring(workspace, RotateKeyring())
        assert (job.kind, job.state, job.created_by) == ("reencrypt_keyring", "waiting", workspace.principal)
        assert await events(superuser, workspace, "vault.keyring_rotated") == [
            {"keyring": workspace.tenant, "version": 2}
        ]

    async def test_while_a_job_of_the_kind_is_open_is_a_conflict_that_names_it(
        self, rotation: RotationService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        job = await rotation.rotate_keyring(workspace, RotateKeyring())
        with pytest.raises(Conflict, match=job.id):
            await rotation.rotate_keyring(workspace, RotateKeyring())
        assert len(await events(superuser, workspace, "vault.keyring_rotated")) == 1
        await rotation.rotate_keyring(context(ids.new("ws")), RotateKeyring())  # another tenant's is another matter

    async def test_of_racers_one_is_first(self, rotation: RotationService, workspace: AuthContext) -> None:
        answers = await asyncio.gather(
            *(rotation.rotate_keyring(workspace, RotateKeyring()) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(answer, JobView) for answer in answers) == 1
        assert sum(isinstance(answer, Conflict) for answer in answers) == 4

    async def test_under_the_same_key_is_done_once(
        self, rotation: RotationService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        keyed = replace(workspace, idempotency=Idempotency("again", "print"))
        job = await rotation.rotate_keyring(keyed, RotateKeyring())
        with pytest.raises(Replayed) as replayed:
            await rotation.rotate_keyring(keyed, RotateKeyring())
        assert JobView.model_validate_json(replayed.value.reply) == job
        assert len(await events(superuser, workspace, "vault.keyring_rotated")) == 1

    async def test_seals_under_the_new_key_at_once(
        self, vault: "Vault", rotation: RotationService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await fill(vault, workspace, 1)
        await rotation.rotate_keyring(workspace, RotateKeyring())
        await vault.secrets.put_secret(workspace, PutSecret.model_validate({"path": "new", "value": "v"}))
        assert await behind(superuser, workspace, 2) == 1


class TestReencryptKeyring:
    async def test_seals_everything_anew_and_everything_opens(
        self,
        vault: "Vault",
        rotation: RotationService,
        about_jobs: JobService,
        worker: Worker,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(walking, "MOST_ROWS", 7)
        await fill(vault, workspace, 30)
        await vault.keys.create_key(workspace, CreateKey(name="orders", type="aes256-gcm"))
        sealed = await vault.keys.encrypt(workspace, Encrypt.model_validate({"name": "orders", "plaintext": PLAIN}))
        job = await rotation.rotate_keyring(workspace, RotateKeyring())

        view = await ended(about_jobs, workspace, job.id)

        assert view.result == "Everything is sealed under version 2: 31 values and keys."
        assert (view.progress.done, view.progress.total) == (31, 31)
        assert await behind(superuser, workspace, 2) == 0
        counts = [event["count"] for event in await events(superuser, workspace, "vault.keyring_reencrypted")]
        assert sum(counts) == 31
        assert len(counts) > 4
        for number in range(30):
            shown = await vault.secrets.reveal_secret(workspace, RevealSecret(path=f"s/{number}"))
            assert shown.value.get_secret_value() == f"value {number}"
        opened = await vault.keys.decrypt(workspace, Decrypt(name="orders", ciphertext=sealed.ciphertext))
        assert opened.plaintext is not None
        assert opened.plaintext.get_secret_value() == PLAIN

    async def test_cancelled_halfway_leaves_all_readable_and_is_started_again(
        self,
        vault: "Vault",
        rotation: RotationService,
        about_jobs: JobService,
        worker: Worker,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(walking, "MOST_ROWS", 3)
        monkeypatch.setattr(runs, "TURN_SECONDS", 0.0)  # back to the queue after each step
        monkeypatch.setattr(takes, "LOOK_SECONDS", 0.3)
        await fill(vault, workspace, 30)
        job = await rotation.rotate_keyring(workspace, RotateKeyring())
        async with asyncio.timeout(20):
            while (await about_jobs.get_job(workspace, GetJob(id=job.id))).progress.done < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await about_jobs.cancel_job(workspace, CancelJob(id=job.id))
        view = await ended(about_jobs, workspace, job.id, "cancelled")
        left = await behind(superuser, workspace, 2)
        assert 0 < left < 30
        assert view.progress.done == 30 - left
        assert view.progress.detail == f"{30 - left} of 30 values and keys are sealed under version 2."
        for number in range(30):
            shown = await vault.secrets.reveal_secret(workspace, RevealSecret(path=f"s/{number}"))
            assert shown.value.get_secret_value() == f"value {number}"

        again = await rotation.rotate_keyring(workspace, RotateKeyring())
        await ended(about_jobs, workspace, again.id)
        assert await behind(superuser, workspace, 3) == 0

    async def test_touches_no_other_tenant(
        self,
        vault: "Vault",
        rotation: RotationService,
        about_jobs: JobService,
        worker: Worker,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        other = context(ids.new("ws"))
        await fill(vault, workspace, 3)
        await fill(vault, other, 3)
        job = await rotation.rotate_keyring(workspace, RotateKeyring())
        await ended(about_jobs, workspace, job.id)
        assert await behind(superuser, other, 1) == 0
        assert await events(superuser, other, "vault.keyring_reencrypted") == []

    def test_needs_the_permission_of_the_command_that_begins_it(self) -> None:
        assert ReencryptKeyring.permission == RotateKeyring.permission
