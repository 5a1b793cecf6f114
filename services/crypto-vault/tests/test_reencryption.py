"""Rotation and re-encryption, on real PostgreSQL: nothing is lost or left behind, whatever is written meanwhile."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import (
    CreateKey,
    Decrypt,
    Encrypt,
    KeyringRotated,
    OpenSealedValue,
    PutSecret,
    RevealSecret,
    SecretWritten,
    StoreSealedValue,
)
from causeloop_common.database import Database
from causeloop_common.errors import Conflict
from causeloop_vault import repository
from causeloop_vault.domain import envelope, places
from causeloop_vault.repository import reencryption as walking, secrets as stored
from causeloop_vault.service import Batch, Keyring, Reencryption, keyrings
from causeloop_vault.service.keyrings import StaleKeyring, on_its_own_account

if TYPE_CHECKING:
    from conftest import Vault

NewVault = Callable[..., "Vault"]
PLAIN = base64.b64encode(b"hunter2").decode()


def put(path: str = "db/password", value: str = "hunter2") -> PutSecret:
    return PutSecret.model_validate({"path": path, "value": value})


async def rotate(vault: "Vault", database: Database, ctx: AuthContext) -> int:
    """Give the tenant a new primary; its version."""
    key = await vault.keyrings.next_key(ctx)
    async with database.transaction(ctx) as tx:
        assert await repository.rotate(tx, key)
        tx.publish(KeyringRotated(keyring=ctx.tenant, version=key.version))
    return key.version


async def step(vault: "Vault", database: Database, ctx: AuthContext, cursor: str | None) -> Batch:
    async def act(keyring: Keyring) -> Batch:
        async with database.transaction(ctx) as tx:
            return await Reencryption().step(tx, keyring, cursor)

    return await vault.keyrings.use(ctx, act)


async def reencrypt(vault: "Vault", database: Database, ctx: AuthContext) -> list[Batch]:
    """A whole walk, batch by batch."""
    batches = [await step(vault, database, ctx, None)]
    while (cursor := batches[-1].cursor) is not None:
        await asyncio.sleep(batches[-1].wait)
        batches.append(await step(vault, database, ctx, cursor))
    return batches


async def counted(superuser: asyncpg.Connection, ctx: AuthContext) -> int:
    """The sum of the counts in the tenant's events."""
    rows = await superuser.fetch(
        "SELECT data FROM vault.outbox WHERE workspace_id = $1 AND type = 'vault.keyring_reencrypted'", ctx.tenant_uuid
    )
    return sum(orjson.loads(row["data"])["count"] for row in rows)


async def versions(superuser: asyncpg.Connection, ctx: AuthContext) -> set[int]:
    """The versions of the data key that something of the tenant's lies sealed under."""
    found: set[int] = set()
    for table in ("keys", "secret_versions", "signing_keys", "sealed_values"):
        rows = await superuser.fetch(f"SELECT sealed FROM vault.{table} WHERE workspace_id = $1", ctx.tenant_uuid)
        found |= {envelope.version_of(row["sealed"]) for row in rows}
    return found


def store_probe(record: str, value: str) -> StoreSealedValue:
    return StoreSealedValue.model_validate({"purpose": "probe", "record": record, "plaintext": value})


async def probe_of(vault: "Vault", ctx: AuthContext, record: str) -> str:
    """A value of the service that has the tests' purpose."""
    command = OpenSealedValue(purpose="probe", record=record)
    answer = await vault.sealing.open_sealed_value(replace(ctx, issuer="tenancy"), command)
    return answer.plaintext.get_secret_value()


async def revealed(vault: "Vault", ctx: AuthContext, path: str, version: int | None = None) -> str:
    shown = await vault.secrets.reveal_secret(ctx, RevealSecret(path=path, version=version))
    return shown.value.get_secret_value()


class TestRotate:
    async def test_a_new_version_seals_and_the_older_ones_open(
        self, vault: "Vault", new_vault: NewVault, database: Database, workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:  # fmt: skip
        await vault.secrets.put_secret(workspace, put("a", "one"))
        assert await rotate(vault, database, workspace) == 2
        assert await rotate(new_vault(), database, workspace) == 3
        await vault.secrets.put_secret(workspace, put("b", "two"))  # its memory still has version 1 alone

        rows = await superuser.fetch(
            "SELECT version, state FROM vault.keyrings WHERE workspace_id = $1 ORDER BY version", workspace.tenant_uuid
        )
        assert [tuple(row) for row in rows] == [(1, "enabled"), (2, "enabled"), (3, "primary")]
        assert await versions(superuser, workspace) == {1, 3}
        for each in (vault, new_vault()):
            assert [await revealed(each, workspace, path) for path in "ab"] == ["one", "two"]

    async def test_of_two_who_race_one_makes_the_version(
        self, vault: "Vault", database: Database, workspace: AuthContext
    ) -> None:
        first, second = [await vault.keyrings.next_key(workspace) for _ in range(2)]

        async def attempt(key: repository.WrappedKey) -> bool:
            async with database.transaction(workspace) as tx:
                tx.publish(KeyringRotated(keyring=workspace.tenant, version=key.version))
                return await repository.rotate(tx, key)

        assert sorted(await asyncio.gather(attempt(first), attempt(second))) == [False, True]
        vault.data_keys.forget(workspace.tenant)
        await vault.secrets.put_secret(workspace, put())

    async def test_a_keyring_has_a_bounded_number_of_versions(
        self, vault: "Vault", workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keyrings, "MOST_VERSIONS", 1)
        with pytest.raises(Conflict, match="has 1 versions, and cannot have more"):
            await vault.keyrings.next_key(workspace)

    async def test_what_a_stale_memory_sealed_is_not_stored(
        self, vault: "Vault", new_vault: NewVault, database: Database, workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:  # fmt: skip
        stale = new_vault()
        await stale.secrets.put_secret(workspace, put("a"))
        await rotate(vault, database, workspace)

        await stale.keys.create_key(workspace, CreateKey(name="orders", type="aes256-gcm"))

        assert await superuser.fetchval("SELECT sealed FROM vault.keys WHERE workspace_id = $1", workspace.tenant_uuid)
        assert await versions(superuser, workspace) == {1, 2}
        assert await superuser.fetchval(
            "SELECT count(*) FROM vault.keys WHERE workspace_id = $1 AND sealed LIKE 'clv1:2:%'", workspace.tenant_uuid
        )


class TestReencryption:
    async def test_seals_everything_anew_and_all_of_it_opens(
        self, vault: "Vault", new_vault: NewVault, database: Database, workspace: AuthContext,
        superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(walking, "MOST_ROWS", 3)
        for number in range(7):
            await vault.secrets.put_secret(workspace, put(f"p/{number}", f"first {number}"))
            await vault.secrets.put_secret(workspace, put(f"p/{number}", f"second {number} ✓"))
        await vault.keys.create_key(workspace, CreateKey(name="orders", type="aes256-gcm"))
        encrypt = Encrypt.model_validate({"name": "orders", "plaintext": PLAIN})
        ciphertext = (await vault.keys.encrypt(workspace, encrypt)).ciphertext
        probes = [store_probe(f"r-{number}", f"value {number}") for number in range(4)]
        for probe in probes:
            await vault.sealing.store_sealed_value(replace(workspace, issuer="tenancy"), probe)
        async with database.transaction(workspace) as tx:
            assert await Reencryption().total(tx) == 19

        version = await rotate(vault, database, workspace)
        batches = await reencrypt(vault, database, workspace)

        assert await versions(superuser, workspace) == {version}
        assert sum(batch.done for batch in batches) == sum(batch.seen for batch in batches) == 19
        assert max(batch.seen for batch in batches) == 3
        assert await counted(superuser, workspace) == 19
        for each in (vault, new_vault()):
            for number in range(7):
                assert await revealed(each, workspace, f"p/{number}", 1) == f"first {number}"
                assert await revealed(each, workspace, f"p/{number}") == f"second {number} ✓"
            for number in range(4):
                assert await probe_of(each, workspace, f"r-{number}") == f"value {number}"
            shown = await each.keys.decrypt(workspace, Decrypt(name="orders", ciphertext=ciphertext))
            assert shown.plaintext is not None
            assert shown.plaintext.get_secret_value() == PLAIN

        assert sum(batch.done for batch in await reencrypt(new_vault(), database, workspace)) == 19
        assert await counted(superuser, workspace) == 19

    async def test_seals_the_signing_key_anew_too(
        self, vault: "Vault", new_vault: NewVault, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await vault.checkpoints.open_signing_key()
        ctx = on_its_own_account("rotation")

        version = await rotate(vault, database, ctx)
        await reencrypt(vault, database, ctx)

        assert await versions(superuser, ctx) == {version}
        await new_vault().checkpoints.open_signing_key()

    async def test_leaves_other_tenants_alone(
        self, vault: "Vault", database: Database, workspace: AuthContext, as_user: Callable[..., AuthContext],
        superuser: asyncpg.Connection,
    ) -> None:  # fmt: skip
        other = as_user(ids.new("ws"))
        for ctx in (workspace, other):
            await vault.secrets.put_secret(ctx, put())

        await rotate(vault, database, workspace)
        await reencrypt(vault, database, workspace)

        assert await versions(superuser, other) == {1}
        assert await counted(superuser, other) == 0

    async def test_a_batch_is_bounded_in_bytes(
        self, vault: "Vault", database: Database, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(walking, "MOST_BYTES", 100_000)
        for number in range(5):
            await vault.secrets.put_secret(workspace, put(f"p/{number}", "x" * 50_000))
        await rotate(vault, database, workspace)

        batches = await reencrypt(vault, database, workspace)

        assert [batch.seen for batch in batches if batch.seen] == [2, 2, 1]

    async def test_goes_on_from_any_cursor_and_counts_nothing_twice(
        self, new_vault: NewVault, database: Database, workspace: AuthContext, superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(walking, "MOST_ROWS", 2)
        for number in range(6):
            await new_vault().secrets.put_secret(workspace, put(f"p/{number}"))
        await rotate(new_vault(), database, workspace)

        cursors: list[str | None] = [None]
        while (batch := await step(new_vault(), database, workspace, cursors[-1])).cursor is not None:
            cursors.append(batch.cursor)
        for cursor in cursors:  # a step whose commit was not seen is done again
            await step(new_vault(), database, workspace, cursor)

        assert await counted(superuser, workspace) == 6

    async def test_waits_for_the_writers_that_the_rotation_met_and_finds_what_they_wrote(
        self, vault: "Vault", new_vault: NewVault, database: Database, workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:  # fmt: skip
        keyring = await vault.keyrings.prepare(workspace)
        async with database.transaction(workspace) as tx:  # a put that the rotation meets in the middle
            secret = await repository.write_secret(tx, "late", None)
            assert secret is not None
            sealed = keyring.seal(places.of_secret("late", 1), b"in time", bytes(envelope.ENTROPY_BYTES))
            row = {"path": "late", "version": 1, "sealed": sealed, "created_by": workspace.principal}
            assert await tx.execute(stored._ADD_VERSION, **row, data_key=keyring.version) == 1  # at once

            await rotate(vault, database, workspace)
            begun = await step(vault, database, workspace, None)
            for _ in range(3):
                waiting = await step(vault, database, workspace, begun.cursor)
                assert (waiting.cursor, waiting.seen) == (begun.cursor, 0)
                assert waiting.wait > 0
            tx.publish(SecretWritten(secret_id=secret.id, version=1))

        cursor = begun.cursor
        while cursor is not None:
            cursor = (await step(vault, database, workspace, cursor)).cursor
        assert await counted(superuser, workspace) == 1
        assert await versions(superuser, workspace) == {2}
        assert await revealed(new_vault(), workspace, "late") == "in time"

    async def test_nothing_is_lost_or_left_behind_while_many_write(
        self, new_vault: NewVault, database: Database, workspace: AuthContext, superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(walking, "MOST_ROWS", 5)
        replicas = [new_vault() for _ in range(4)]
        written: dict[tuple[str, int], str] = {}
        kept: dict[str, str] = {}
        over = asyncio.Event()

        async def write(replica: "Vault", number: int) -> None:
            count = 0
            while not over.is_set():
                path, value = f"p/{(number + count) % 7}", f"{number} {count}"
                secret = await replica.secrets.put_secret(workspace, put(path, value))
                written[path, secret.version] = value
                probe = store_probe(f"r-{number}", value)
                await replica.sealing.store_sealed_value(replace(workspace, issuer="tenancy"), probe)
                kept[probe.record] = value
                count += 1

        writers = [asyncio.create_task(write(replica, number)) for number, replica in enumerate(replicas)]
        for _ in range(3):
            version = await rotate(new_vault(), database, workspace)
            await reencrypt(new_vault(), database, workspace)
            assert await versions(superuser, workspace) == {version}
        over.set()
        await asyncio.gather(*writers)

        assert len(written) > 20
        reader = new_vault()
        for (path, number), value in written.items():
            assert await revealed(reader, workspace, path, number) == value
        for record, value in kept.items():
            assert await probe_of(reader, workspace, record) == value

    async def test_a_keyring_that_seals_under_an_older_version_does_nothing(
        self, vault: "Vault", database: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        old = await vault.keyrings.prepare(workspace)
        await rotate(vault, database, workspace)
        await reencrypt(vault, database, workspace)
        begun = await step(vault, database, workspace, None)

        with pytest.raises(StaleKeyring):
            async with database.transaction(workspace) as tx:
                await Reencryption().step(tx, old, begun.cursor)
        assert await versions(superuser, workspace) == {2}

    async def test_a_row_that_was_changed_since_it_was_read_keeps_what_it_has(
        self, vault: "Vault", database: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.secrets.put_secret(workspace, put())
        cursor: Any = (2, ("", 0))
        async with database.transaction(workspace) as tx:
            (row,), _ = await repository.walk(tx, cursor)
            assert await repository.reseal(tx, cursor, [(row._replace(sealed="clv1:1:other"), "clv1:1:new")]) == 0
        assert await revealed(vault, workspace, "db/password") == "hunter2"

    async def test_what_does_not_open_stays_and_stops_nothing(
        self, vault: "Vault", database: Database, workspace: AuthContext, superuser: asyncpg.Connection,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        for path in "abc":
            await vault.secrets.put_secret(workspace, put(path))
        await superuser.execute("SET session_replication_role = replica")
        for path, sealed in {"a": "clv1:1:AAAA", "b": "clv1:99:AAAA"}.items():
            await superuser.execute(
                "UPDATE vault.secret_versions SET sealed = $3 WHERE workspace_id = $1 AND path = $2",
                workspace.tenant_uuid, path, sealed,
            )  # fmt: skip
        await rotate(vault, database, workspace)

        batches = await reencrypt(vault, database, workspace)

        assert await counted(superuser, workspace) == 1
        assert sum(batch.seen - batch.done for batch in batches) == 2
        assert f"2 stored ciphertexts of {workspace.tenant} do not open" in caplog.text
        assert await revealed(vault, workspace, "c") == "hunter2"
