"""A transaction with its command: a retried command has one effect, and its first answer again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.auth import CreateApiToken, CreatedApiToken
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.contracts.vault import GetSecret, PutSecret, SecretView
from causeloop_common.database import Database
from causeloop_common.errors import (
    IdempotencyInProgress,
    IdempotencyMismatch,
    NotFound,
    SecretAlreadyShown,
)
from causeloop_common.idempotency import Replayed
from causeloop_common.permissions import Permission
from causeloop_common.statements import Statement

Probe = Callable[..., Awaitable[Database]]

ADD = Statement.raw("INSERT INTO probe.things (name) VALUES ($1)", "name")
COUNT = Statement.raw("SELECT count(*) AS n FROM probe.things")
SOMETHING = MemberAdded(person_id=ids.INSTALLATION, role="owner")
CANARY = "s3cr3t-canary"
PUT = PutSecret.model_validate({"path": "a/b", "value": CANARY})


def keyed(ctx: AuthContext, key: str = "key-1", fingerprint: str = "print") -> AuthContext:
    return replace(ctx, idempotency=Idempotency(key, fingerprint))


def secret() -> SecretView:
    now = datetime.now(UTC)
    return SecretView(id=ids.new("sec"), path="a/b", version=1, created_at=now, updated_at=now)


async def put(database: Database, ctx: AuthContext, *, pause: asyncio.Barrier | None = None) -> SecretView:
    """A use case: one thing more, under the key of the context. A barrier is met twice, once the key is held."""
    async with database.transaction(ctx, PUT) as tx:
        if pause is not None:
            await pause.wait()
            await pause.wait()
        await tx.execute(ADD, name=ids.new("thing"))
        tx.publish(SOMETHING)
        return tx.answer(secret())


async def fail(database: Database, ctx: AuthContext) -> None:
    """The same use case, refused after its answer."""
    with suppress(NotFound):
        async with database.transaction(ctx, PUT) as tx:
            tx.answer(secret())
            raise NotFound("No.")


async def things(database: Database, ctx: AuthContext) -> int:
    async with database.transaction(ctx) as tx:
        return int((await tx.fetchrow(COUNT))["n"])


class TestReplay:
    async def test_a_retry_ends_with_the_first_answer_and_no_second_effect(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe()
        first = await put(database, keyed(workspace))

        with pytest.raises(Replayed) as done:
            await put(database, keyed(workspace))

        assert SecretView.model_validate_json(done.value.reply) == first
        assert await things(database, workspace) == 1

    async def test_without_a_key_every_request_counts(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        await put(database, workspace)
        await put(database, workspace)

        assert await things(database, workspace) == 2

    async def test_a_command_that_is_not_keyed_ignores_the_key(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        for _ in range(2):
            async with database.transaction(keyed(workspace), GetSecret(path="a/b")) as tx:
                tx.answer(secret())

    async def test_nothing_is_replayed_of_what_was_rolled_back(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        await fail(database, keyed(workspace))

        await put(database, keyed(workspace))
        assert await things(database, workspace) == 1

    @pytest.mark.parametrize("key", [True, False], ids=["with a key", "without a key"])
    async def test_a_use_case_that_forgets_its_answer_is_rolled_back(
        self, probe: Probe, workspace: AuthContext, key: bool
    ) -> None:
        database, ctx = await probe(), keyed(workspace) if key else workspace

        async def forgetful() -> None:
            async with database.transaction(ctx, PUT) as tx:
                await tx.execute(ADD, name=ids.new("thing"))
                tx.publish(SOMETHING)

        with pytest.raises(RuntimeError, match=r"The use case of PutSecret ends without `tx\.answer`\."):
            await forgetful()
        assert await things(database, workspace) == 0
        await put(database, ctx)  # nothing was remembered, and the connection is as good as before
        assert await things(database, workspace) == 1

    @pytest.mark.parametrize("other", ["tenant", "principal", "key"])
    async def test_a_key_is_the_callers_own(self, probe: Probe, workspace: AuthContext, other: str) -> None:
        database = await probe()
        await put(database, keyed(workspace))
        changed = {
            "tenant": keyed(replace(workspace, tenant=ids.new("ws"))),
            "principal": keyed(replace(workspace, principal=ids.realm("https://issuer.test", ids.new("sub")))),
            "key": keyed(workspace, key="key-2"),
        }[other]

        await put(database, changed)
        assert await things(database, changed) == (1 if other == "tenant" else 2)

    async def test_a_key_is_for_one_operation(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        await put(database, keyed(workspace))

        async with database.transaction(
            keyed(workspace), CreateApiToken(name="ci", scopes=[Permission.SECRETS_READ])
        ) as tx:
            tx.answer(secret())

    async def test_after_a_day_the_key_is_free_and_what_is_old_is_forgotten(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe()
        await put(database, keyed(workspace, key="old"))
        await put(database, keyed(workspace, key="young"))
        age = "UPDATE probe.idempotency SET created_at = $1 WHERE workspace_id = $2 AND key = $3"
        now = datetime.now(UTC)
        await superuser.execute(age, now - timedelta(hours=24, seconds=1), workspace.tenant_uuid, "old")
        await superuser.execute(age, now - timedelta(hours=23, minutes=59), workspace.tenant_uuid, "young")

        await put(database, keyed(workspace, key="old"))
        with pytest.raises(Replayed):
            await put(database, keyed(workspace, key="young"))
        assert await things(database, workspace) == 3


class TestMismatch:
    async def test_another_request_under_the_key_is_refused(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        await put(database, keyed(workspace))

        with pytest.raises(IdempotencyMismatch, match=r"was used with another request\. Use a new key"):
            await put(database, keyed(workspace, fingerprint="another"))
        assert await things(database, workspace) == 1


class TestTwins:
    async def test_while_the_first_is_running_its_twin_is_asked_to_wait(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database, pause = await probe(), asyncio.Barrier(2)
        first = asyncio.create_task(put(database, keyed(workspace), pause=pause))
        await pause.wait()

        with pytest.raises(IdempotencyInProgress, match=r"is still running\. Wait for its answer") as refused:
            await put(database, keyed(workspace))

        assert refused.value.retry_after == 1
        await pause.wait()
        answer = await first
        with pytest.raises(Replayed) as done:
            await put(database, keyed(workspace))
        assert SecretView.model_validate_json(done.value.reply) == answer

    async def test_of_thirty_racers_one_acts_and_all_others_hear_of_it(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe(workers=8)

        found = await asyncio.gather(*(put(database, keyed(workspace)) for _ in range(30)), return_exceptions=True)

        acted = [one for one in found if isinstance(one, SecretView)]
        assert len(acted) == 1
        assert all(isinstance(one, Replayed | IdempotencyInProgress) for one in found if one not in acted)
        assert await things(database, workspace) == 1

    async def test_a_first_one_that_failed_leaves_the_key_to_its_twin(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe()
        pause = asyncio.Barrier(2)
        first = asyncio.create_task(put(database, keyed(workspace), pause=pause))
        await pause.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

        await put(database, keyed(workspace))
        assert await things(database, workspace) == 1


class TestShownOnce:
    @staticmethod
    async def make(database: Database, ctx: AuthContext) -> CreatedApiToken:
        now = datetime.now(UTC)
        async with database.transaction(ctx, CreateApiToken(name="ci", scopes=[Permission.SECRETS_READ])) as tx:
            tx.publish(SOMETHING)
            found = {"id": ids.new("tok"), "name": "ci", "scopes": [], "owner": ctx.principal, "token": CANARY}
            return tx.answer(
                CreatedApiToken.model_validate({**found, "created_at": now, "expires_at": now, "revoked_at": None})
            )

    async def test_a_retry_is_shown_the_id_and_not_the_secret(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        made = await self.make(database, keyed(workspace))

        with pytest.raises(SecretAlreadyShown, match=f"its secret was shown then. It made {made.id}") as refused:
            await self.make(database, keyed(workspace))

        assert refused.value.fields == {"id": [made.id]}

    async def test_no_secret_is_stored_of_request_or_answer(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe()
        await self.make(database, keyed(workspace))
        await put(database, keyed(workspace))

        rows = await superuser.fetch("SELECT * FROM probe.idempotency WHERE workspace_id = $1", workspace.tenant_uuid)
        assert len(rows) == 2
        assert CANARY not in repr(rows)
