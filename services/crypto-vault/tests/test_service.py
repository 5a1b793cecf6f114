"""The vault's use cases, on real PostgreSQL."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.vault import GetSecret, ListSecrets, PutSecret, RevealSecret
from causeloop_common.errors import Conflict, IdempotencyMismatch, Internal, NotFound
from causeloop_common.idempotency import Replayed
from tests.support.pages import pages

if TYPE_CHECKING:
    from conftest import Vault

NewVault = Callable[..., "Vault"]


def put(path: str = "db/password", value: str = "hunter2", version: int | None = None) -> PutSecret:
    return PutSecret.model_validate({"path": path, "value": value, "version": version})


async def events(superuser: asyncpg.Connection, ctx: AuthContext) -> list[str]:
    rows = await superuser.fetch("SELECT type FROM vault.outbox WHERE workspace_id = $1 ORDER BY seq", ctx.tenant_uuid)
    return [row["type"] for row in rows]


class TestPutSecret:
    async def test_versions_count_from_one_and_keep_one_id(self, vault: "Vault", workspace: AuthContext) -> None:
        first = await vault.secrets.put_secret(workspace, put(value="one"))
        second = await vault.secrets.put_secret(workspace, put(value="two"))

        assert (first.version, second.version) == (1, 2)
        assert first.id == second.id
        assert second.created_at == first.created_at < second.updated_at

    async def test_writes_only_on_top_of_the_version_that_was_named(
        self, vault: "Vault", workspace: AuthContext
    ) -> None:
        assert (await vault.secrets.put_secret(workspace, put(version=0))).version == 1
        assert (await vault.secrets.put_secret(workspace, put(version=1))).version == 2
        for stale in (0, 1, 3):
            with pytest.raises(Conflict, match="version is not the one you named"):
                await vault.secrets.put_secret(workspace, put(version=stale))
        assert (await vault.secrets.get_secret(workspace, GetSecret(path="db/password"))).version == 2

    async def test_a_version_named_of_a_secret_that_is_not_there_makes_none(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        with pytest.raises(Conflict):
            await vault.secrets.put_secret(workspace, put(version=5))
        with pytest.raises(NotFound):
            await vault.secrets.get_secret(workspace, GetSecret(path="db/password"))
        assert await events(superuser, workspace) == []

    async def test_fifty_racers_make_one_keyring_and_fifty_versions(
        self, new_vault: NewVault, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        vaults = [new_vault() for _ in range(50)]

        written = await asyncio.gather(*(vault.secrets.put_secret(workspace, put()) for vault in vaults))

        assert sorted(secret.version for secret in written) == list(range(1, 51))
        answer = await events(superuser, workspace)
        assert answer.count("vault.keyring_created") == 1
        assert answer.count("vault.secret_written") == 50
        for version in (1, 25, 50):
            shown = await vaults[0].secrets.reveal_secret(workspace, RevealSecret(path="db/password", version=version))
            assert shown.value.get_secret_value() == "hunter2"

    async def test_a_retry_ends_with_the_first_answer(self, vault: "Vault", workspace: AuthContext) -> None:
        keyed = replace(workspace, idempotency=Idempotency("key", "print"))
        first = await vault.secrets.put_secret(keyed, put())

        with pytest.raises(Replayed) as done:
            await vault.secrets.put_secret(keyed, put())
        with pytest.raises(IdempotencyMismatch):
            await vault.secrets.put_secret(replace(keyed, idempotency=Idempotency("key", "other")), put(value="x"))

        assert type(first).model_validate_json(done.value.reply) == first
        assert (await vault.secrets.get_secret(workspace, GetSecret(path="db/password"))).version == 1

    async def test_nothing_of_the_value_lies_in_the_database(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.secrets.put_secret(workspace, put(value="correct horse battery staple"))
        for table in ("secrets", "secret_versions", "keyrings", "outbox"):
            rows = await superuser.fetch(
                f"SELECT t::text AS row FROM vault.{table} t WHERE workspace_id = $1", workspace.tenant_uuid
            )
            assert rows
            assert not any("correct horse" in row["row"] for row in rows)


class TestRevealSecret:
    async def test_shows_the_newest_and_any_version(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.secrets.put_secret(workspace, put(value="one"))
        await vault.secrets.put_secret(workspace, put(value="zwei ✓"))

        newest = await vault.secrets.reveal_secret(workspace, RevealSecret(path="db/password"))
        first = await vault.secrets.reveal_secret(workspace, RevealSecret(path="db/password", version=1))

        assert (newest.version, newest.value.get_secret_value()) == (2, "zwei ✓")
        assert (first.version, first.value.get_secret_value()) == (1, "one")
        assert "zwei" not in repr(newest)

    async def test_is_recorded_each_time(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        for _ in range(2):
            await vault.secrets.reveal_secret(workspace, RevealSecret(path="db/password"))
        assert (await events(superuser, workspace))[-2:] == ["vault.secret_revealed", "vault.secret_revealed"]

    async def test_of_what_is_not_there_is_refused_and_not_recorded(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        for missing in (RevealSecret(path="other"), RevealSecret(path="db/password", version=9)):
            with pytest.raises(NotFound, match="or not that version of it"):
                await vault.secrets.reveal_secret(workspace, missing)
        assert "vault.secret_revealed" not in await events(superuser, workspace)

    async def test_a_ciphertext_moved_to_another_row_does_not_open(
        self,
        vault: "Vault",
        workspace: AuthContext,
        as_user: Callable[..., AuthContext],
        superuser: asyncpg.Connection,
    ) -> None:
        other = as_user(ids.new("ws"))
        await vault.secrets.put_secret(workspace, put("a", "of a"))
        await vault.secrets.put_secret(workspace, put("a", "of a, newer"))
        await vault.secrets.put_secret(workspace, put("b", "of b"))
        await vault.secrets.put_secret(other, put("a", "of another"))
        moved = """
            UPDATE vault.secret_versions SET sealed = (
                SELECT sealed FROM vault.secret_versions WHERE workspace_id = $1 AND path = $2 AND version = $3
            ) WHERE workspace_id = $4 AND path = 'b'
        """
        # The guard is the database's; a thief who moves rows past it is who we guess at here.
        await superuser.execute("SET session_replication_role = replica")
        for source, path, version in ((workspace, "a", 1), (workspace, "a", 2), (other, "a", 1)):
            await superuser.execute(moved, source.tenant_uuid, path, version, workspace.tenant_uuid)
            with pytest.raises(Internal, match="does not open at its place"):
                await vault.secrets.reveal_secret(workspace, RevealSecret(path="b"))

    async def test_nothing_of_another_tenant_is_found(
        self, vault: "Vault", workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        stranger = as_user(ids.new("ws"))
        with pytest.raises(NotFound):
            await vault.secrets.reveal_secret(stranger, RevealSecret(path="db/password"))
        with pytest.raises(NotFound):
            await vault.secrets.get_secret(stranger, GetSecret(path="db/password"))
        assert (await vault.secrets.list_secrets(stranger, ListSecrets())).data == []


class TestGetSecret:
    async def test_shows_the_newest_version_without_its_value(self, vault: "Vault", workspace: AuthContext) -> None:
        first = await vault.secrets.put_secret(workspace, put(value="one"))
        newest = await vault.secrets.put_secret(workspace, put(value="two"))
        shown = await vault.secrets.get_secret(workspace, GetSecret(path="db/password"))
        assert shown == newest
        assert (shown.id, shown.version, shown.created_at) == (first.id, 2, first.created_at)
        assert "value" not in type(shown).model_fields

    async def test_records_nothing(self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection) -> None:
        await vault.secrets.put_secret(workspace, put())
        before = await events(superuser, workspace)
        await vault.secrets.get_secret(workspace, GetSecret(path="db/password"))
        assert await events(superuser, workspace) == before

    async def test_finds_a_secret_by_its_whole_path_alone(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.secrets.put_secret(workspace, put())
        for path in ("db", "db/password/old", "db/Password", "password"):
            with pytest.raises(NotFound, match=f"There is no secret '{path}' in this workspace"):
                await vault.secrets.get_secret(workspace, GetSecret(path=path))

    async def test_finds_nothing_of_another_tenant(
        self, vault: "Vault", workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        with pytest.raises(NotFound, match="There is no secret 'db/password' in this workspace"):
            await vault.secrets.get_secret(as_user(ids.new("ws")), GetSecret(path="db/password"))


class TestListSecrets:
    async def test_pages_by_path_without_values(self, vault: "Vault", workspace: AuthContext) -> None:
        paths = [f"p/{number:02}" for number in range(7)]
        for path in reversed(paths):
            await vault.secrets.put_secret(workspace, put(path))

        found = await pages(vault.secrets.list_secrets, workspace, ListSecrets(limit=3))

        assert [secret.path for page in found for secret in page] == paths
