"""Named keys, on real PostgreSQL: what decrypts, what does not, and what is recorded of it."""

import asyncio
import base64
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr, ValidationError

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.vault import ITEMS, CreateKey, Decrypt, Encrypt, ListKeys
from causeloop_common.errors import Conflict, IdempotencyMismatch, Internal, InvalidInput, NotFound, Unavailable
from causeloop_common.idempotency import Replayed
from tests.support.pages import pages

if TYPE_CHECKING:
    from conftest import Vault

NewVault = Callable[..., "Vault"]
CREATE = CreateKey(name="orders", type="aes256-gcm")
ROW = {"table": "orders", "row": "1"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def encrypt(text: str = "hunter2", context: dict[str, str] | None = None, name: str = "orders") -> Encrypt:
    return Encrypt.model_validate({"name": name, "plaintext": b64(text), "context": context})


def decrypt(ciphertext: str | None, context: dict[str, str] | None = None, name: str = "orders") -> Decrypt:
    return Decrypt(name=name, ciphertext=ciphertext, context=context)


def encrypt_all(*items: tuple[str, dict[str, str]]) -> Encrypt:
    received = [{"plaintext": b64(text), "context": context} for text, context in items]
    return Encrypt.model_validate({"name": "orders", "items": received})


def decrypt_all(*items: tuple[str | None, dict[str, str]]) -> Decrypt:
    received = [{"ciphertext": text, "context": context} for text, context in items]
    return Decrypt.model_validate({"name": "orders", "items": received})


async def events(superuser: asyncpg.Connection, ctx: AuthContext) -> list[tuple[str, dict[str, Any]]]:
    rows = await superuser.fetch(
        "SELECT type, data FROM vault.outbox WHERE workspace_id = $1 ORDER BY seq", ctx.tenant_uuid
    )
    return [(row["type"], orjson.loads(row["data"])) for row in rows]


async def opened(vault: "Vault", ctx: AuthContext, command: Decrypt) -> str:
    answer = await vault.keys.decrypt(ctx, command)
    assert answer.plaintext is not None
    return base64.b64decode(answer.plaintext.get_secret_value()).decode()


class TestCreateKey:
    async def test_makes_version_1_and_says_so(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        made = await vault.keys.create_key(workspace, CREATE)

        assert (made.name, made.type, made.version) == ("orders", "aes256-gcm", 1)
        assert await events(superuser, workspace) == [
            ("vault.keyring_created", {"keyring": workspace.tenant, "version": 1}),
            ("vault.key_created", {"key_id": made.id, "version": 1}),
        ]

    async def test_a_name_that_is_taken_is_a_conflict_and_changes_nothing(
        self, vault: "Vault", workspace: AuthContext
    ) -> None:
        made = await vault.keys.create_key(workspace, CREATE)
        with pytest.raises(Conflict, match="There is a key 'orders' in this workspace already"):
            await vault.keys.create_key(workspace, CREATE)
        assert (await vault.keys.list_keys(workspace, ListKeys())).data == [made]

    async def test_two_workspaces_have_keys_of_one_name_and_know_nothing_of_each_other(
        self, vault: "Vault", workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        other = as_user(ids.new("ws"))
        mine, theirs = [await vault.keys.create_key(ctx, CREATE) for ctx in (workspace, other)]
        assert mine.id != theirs.id

    async def test_a_retry_ends_with_the_first_answer(self, vault: "Vault", workspace: AuthContext) -> None:
        keyed = replace(workspace, idempotency=Idempotency("key", "print"))
        first = await vault.keys.create_key(keyed, CREATE)

        with pytest.raises(Replayed) as done:
            await vault.keys.create_key(keyed, CREATE)
        with pytest.raises(IdempotencyMismatch):
            await vault.keys.create_key(replace(keyed, idempotency=Idempotency("key", "other")), CREATE)

        assert type(first).model_validate_json(done.value.reply) == first

    async def test_fifty_racers_make_one_key(
        self, new_vault: NewVault, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        vaults = [new_vault() for _ in range(50)]

        ended = await asyncio.gather(
            *(vault.keys.create_key(workspace, CREATE) for vault in vaults), return_exceptions=True
        )

        assert len([one for one in ended if isinstance(one, Conflict)]) == 49
        received = [kind for kind, _ in await events(superuser, workspace)]
        assert sorted(received) == ["vault.key_created", "vault.keyring_created"]
        sealed = await vaults[0].keys.encrypt(workspace, encrypt())
        for vault in vaults[1:4]:
            assert await opened(vault, workspace, decrypt(sealed.ciphertext)) == "hunter2"

    async def test_its_material_lies_sealed_in_the_database(
        self, new_vault: NewVault, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        drawn: list[bytes] = []

        def entropy(size: int) -> bytes:
            drawn.append(bytes([len(drawn)]) * size)
            return drawn[-1]

        await new_vault(entropy=entropy).keys.create_key(workspace, CREATE)
        row = await superuser.fetchval(
            "SELECT t::text FROM vault.keys t WHERE workspace_id = $1", workspace.tenant_uuid
        )
        assert "clv1:1:" in row
        material = [drawn_bytes for drawn_bytes in drawn if len(drawn_bytes) == 32]
        assert material
        for secret in material:
            assert secret.hex() not in row
            assert base64.b64encode(secret).decode().rstrip("=")[:-1] not in row

    @pytest.mark.parametrize("name", ["", "a/b", "a b", ".a", "-a", "é", "a\n", "x" * 129])
    def test_a_name_has_one_spelling(self, name: str) -> None:
        with pytest.raises(ValidationError, match="name"):
            CreateKey(name=name, type="aes256-gcm")

    def test_no_other_type_yet(self) -> None:
        with pytest.raises(ValidationError, match="type"):
            CreateKey.model_validate({"name": "a", "type": "aes128-ecb"})


class TestListKeys:
    async def test_pages_by_name(self, vault: "Vault", workspace: AuthContext) -> None:
        names = [f"k{number:02}" for number in range(7)]
        for name in reversed(names):
            await vault.keys.create_key(workspace, CreateKey(name=name, type="aes256-gcm"))

        found = await pages(vault.keys.list_keys, workspace, ListKeys(limit=3))

        assert [key.name for page in found for key in page] == names

    async def test_shows_nothing_of_another_tenant(
        self, vault: "Vault", workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        assert (await vault.keys.list_keys(as_user(ids.new("ws")), ListKeys())).data == []


class TestEncrypt:
    async def test_is_never_twice_the_same(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.keys.create_key(workspace, CREATE)
        first, second = [await vault.keys.encrypt(workspace, encrypt()) for _ in range(2)]
        assert first.ciphertext != second.ciphertext
        assert (first.ciphertext or "").startswith("clv1:1:")

    async def test_announces_nothing_and_needs_no_database_once_it_knows_the_key(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        await vault.keys.encrypt(workspace, encrypt())
        before = await events(superuser, workspace)

        def away(_: Any) -> Any:
            raise Unavailable("The database is away.")

        monkeypatch.setattr(vault.keys._database, "transaction", away)
        await vault.keys.encrypt(workspace, encrypt())
        await vault.keys.encrypt(workspace, encrypt_all(("a", ROW), ("b", {})))
        monkeypatch.undo()
        assert await events(superuser, workspace) == before

    async def test_remembers_the_key_until_it_is_forgotten(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        await vault.keys.encrypt(workspace, encrypt())
        await superuser.execute("SET session_replication_role = replica")
        await superuser.execute(
            "UPDATE vault.keys SET sealed = 'clv1:1:gone' WHERE workspace_id = $1", workspace.tenant_uuid
        )

        await vault.keys.encrypt(workspace, encrypt())
        vault.named_keys.forget(workspace.tenant)
        with pytest.raises(Internal, match="does not open at its place"):
            await vault.keys.encrypt(workspace, encrypt())

    async def test_of_a_key_that_is_not_there_is_refused(self, vault: "Vault", workspace: AuthContext) -> None:
        with pytest.raises(NotFound, match="There is no key 'orders' in this workspace"):
            await vault.keys.encrypt(workspace, encrypt())

    async def test_a_key_that_is_remembered_for_one_tenant_is_not_found_by_another(
        self, vault: "Vault", workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        await vault.keys.encrypt(workspace, encrypt())
        with pytest.raises(NotFound, match="There is no key 'orders'"):
            await vault.keys.encrypt(as_user(ids.new("ws")), encrypt())

    @pytest.mark.parametrize("text", ["%%%", "QQ", "QQ=", "Q Q=", "QQ==\n", "-_-_", "é", "QUJD=", "=", "QQ==QQ=="])
    async def test_a_plaintext_that_is_no_base64_is_refused(
        self, vault: "Vault", workspace: AuthContext, text: str
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        with pytest.raises(InvalidInput) as refused:
            await vault.keys.encrypt(workspace, Encrypt.model_validate({"name": "orders", "plaintext": text}))
        assert refused.value.fields == {"plaintext": ["is not base64"]}

        items = [{"plaintext": text}, {"plaintext": b64("good")}]
        answer = await vault.keys.encrypt(workspace, Encrypt.model_validate({"name": "orders", "items": items}))
        bad, good = answer.results or []
        assert (bad.ciphertext, bad.error and bad.error.code) == (None, "validation_error")
        assert bad.error is not None
        assert bad.error.detail == "The plaintext is not base64."
        assert await opened(vault, workspace, decrypt(good.ciphertext)) == "good"

    async def test_a_request_has_one_form(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.keys.create_key(workspace, CREATE)
        neither = Encrypt(name="orders")
        both = Encrypt.model_validate(
            {"name": "orders", "plaintext": b64("a"), "context": {}, "items": [{"plaintext": b64("b")}]}
        )
        with pytest.raises(InvalidInput) as refused:
            await vault.keys.encrypt(workspace, neither)
        assert refused.value.fields == {"plaintext": ["is needed, or items"]}
        with pytest.raises(InvalidInput) as refused:
            await vault.keys.encrypt(workspace, both)
        assert set(refused.value.fields or {}) == {"plaintext", "context"}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("items", []),
            ("items", [{"plaintext": ""}] * (ITEMS + 1)),
            ("items", [{"plaintext": "", "more": ""}]),
            ("items", [{"plaintext": "A" * 65_537}]),
            ("items", [{}]),
            ("plaintext", "A" * 65_537),
            ("context", {f"n{number}": "" for number in range(17)}),
            ("context", {"n": "x" * 257}),
            ("context", {"a b": ""}),
            ("context", {"é": ""}),
            ("context", {"": ""}),
            ("context", {"n" * 65: ""}),
            ("context", {"n": 1}),
        ],
        ids=repr,
    )
    def test_has_limits(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError, match=field):
            Encrypt.model_validate({"name": "orders", field: value})

    def test_no_plaintext_is_printed(self) -> None:
        command = Encrypt.model_validate({"name": "orders", "items": [{"plaintext": "Y2FuYXJ5"}]})
        for text in (repr(command), repr(command.items), str(command.items), command.model_dump_json()):
            assert "Y2FuYXJ5" not in text


class TestDecrypt:
    async def test_the_same_context_in_any_order_opens(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.keys.create_key(workspace, CREATE)
        sealed = await vault.keys.encrypt(workspace, encrypt("zwei ✓", ROW))
        assert await opened(vault, workspace, decrypt(sealed.ciphertext, dict(reversed(ROW.items())))) == "zwei ✓"

    async def test_no_context_is_the_empty_one(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.keys.create_key(workspace, CREATE)
        sealed = await vault.keys.encrypt(workspace, encrypt("a", None))
        assert await opened(vault, workspace, decrypt(sealed.ciphertext, {})) == "a"

    @pytest.mark.parametrize(
        "context",
        [None, {}, {"table": "orders"}, {**ROW, "row": "2"}, {**ROW, "more": ""}, {"row": "orders", "table": "1"},
         {"table": 'orders","row":"1'}],
        ids=repr,
    )  # fmt: skip
    async def test_another_context_does_not_open(
        self, vault: "Vault", workspace: AuthContext, context: dict[str, str] | None
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        sealed = await vault.keys.encrypt(workspace, encrypt("a", ROW))
        with pytest.raises(InvalidInput) as refused:
            await vault.keys.decrypt(workspace, decrypt(sealed.ciphertext, context))
        assert refused.value.fields == {"ciphertext": ["does not open under this key in this context"]}

    async def test_another_key_or_another_tenant_s_does_not_open(
        self, vault: "Vault", workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        other = as_user(ids.new("ws"))
        for ctx in (workspace, other):
            await vault.keys.create_key(ctx, CREATE)
        await vault.keys.create_key(workspace, CreateKey(name="others", type="aes256-gcm"))
        sealed = await vault.keys.encrypt(workspace, encrypt())
        for ctx, name in ((workspace, "others"), (other, "orders")):
            with pytest.raises(InvalidInput) as refused:
                await vault.keys.decrypt(ctx, decrypt(sealed.ciphertext, name=name))
            assert "ciphertext" in (refused.value.fields or {})

    async def test_a_key_s_row_moved_to_another_place_does_not_open(
        self,
        vault: "Vault",
        new_vault: NewVault,
        workspace: AuthContext,
        as_user: Callable[..., AuthContext],
        superuser: asyncpg.Connection,
    ) -> None:
        other = as_user(ids.new("ws"))
        for ctx in (workspace, other):
            await vault.keys.create_key(ctx, CREATE)
        await superuser.execute("SET session_replication_role = replica")
        await superuser.execute(
            "UPDATE vault.keys k SET id = o.id, sealed = o.sealed FROM vault.keys o "
            "WHERE k.workspace_id = $1 AND o.workspace_id = $2",
            other.tenant_uuid,
            workspace.tenant_uuid,
        )
        with pytest.raises(Internal, match="does not open at its place"):
            await new_vault().keys.encrypt(other, encrypt())

    async def test_a_ciphertext_that_was_changed_does_not_open(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.keys.create_key(workspace, CREATE)
        sealed = (await vault.keys.encrypt(workspace, encrypt("a" * 30))).ciphertext or ""
        head, _, body = sealed.rpartition(":")
        raw = bytearray(base64.b64decode(body))
        changed = [f"{head}:{body[:-4]}", f"clv1:2:{body}", f"clv1:99:{body}", body, "", "clv1:1:", f"{sealed}\n", "é"]
        for place in (0, 15, 16, 47, 48, 59, 60, len(raw) - 1):
            raw[place] ^= 1
            changed.append(f"{head}:{base64.b64encode(raw).decode()}")
            raw[place] ^= 1

        answer = await vault.keys.decrypt(workspace, decrypt_all(*((text, {}) for text in changed), (sealed, {})))

        results = answer.results or []
        assert [result.plaintext is None for result in results] == [True] * len(changed) + [False]
        details = {result.error.detail for result in results if result.error}
        assert details == {"The ciphertext does not open under this key in this context."}

    async def test_items_keep_their_order_and_open_in_their_own_context_only(
        self, vault: "Vault", workspace: AuthContext
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        contexts = [{"row": str(number)} for number in range(4)]
        answer = await vault.keys.encrypt(
            workspace, encrypt_all(*((f"text {n}", context) for n, context in enumerate(contexts)))
        )
        sealed = [result.ciphertext for result in answer.results or []]

        pairs = list(itertools.product(enumerate(sealed), enumerate(contexts)))
        back = await vault.keys.decrypt(workspace, decrypt_all(*((text, context) for (_, text), (_, context) in pairs)))

        for ((here, _), (there, _)), result in zip(pairs, back.results or [], strict=True):
            expected = SecretStr(b64(f"text {here}")) if here == there else None
            assert result.plaintext == expected
            assert (result.error is None) == (here == there)

    async def test_a_thousand_items_are_one_request(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.keys.create_key(workspace, CREATE)
        texts = [f"text {number}" for number in range(ITEMS)]
        answer = await vault.keys.encrypt(workspace, encrypt_all(*((text, ROW) for text in texts)))
        sealed = [result.ciphertext for result in answer.results or []]
        raw = [base64.b64decode((text or "").rpartition(":")[2]) for text in sealed]
        assert len({one[:16] for one in raw}) == 1  # one salt
        assert len({one[48:60] for one in raw}) == ITEMS  # a nonce each

        back = await vault.keys.decrypt(workspace, decrypt_all(*((text, ROW) for text in sealed)))
        assert [result.plaintext for result in back.results or []] == [SecretStr(b64(text)) for text in texts]

    async def test_is_recorded_once_per_request_with_how_many_were_shown(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        made = await vault.keys.create_key(workspace, CREATE)
        sealed = await vault.keys.encrypt(workspace, encrypt("a", ROW))
        await vault.keys.decrypt(workspace, decrypt(sealed.ciphertext, ROW))
        await vault.keys.decrypt(
            workspace, decrypt_all((sealed.ciphertext, ROW), (sealed.ciphertext, {}), (sealed.ciphertext, ROW))
        )
        shown = [data for kind, data in await events(superuser, workspace) if kind == "vault.data_decrypted"]
        assert shown == [{"key_id": made.id, "count": 1}, {"key_id": made.id, "count": 2}]

    async def test_what_showed_nothing_is_not_recorded(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        before = await events(superuser, workspace)
        with pytest.raises(InvalidInput):
            await vault.keys.decrypt(workspace, decrypt("clv1:1:nothing"))
        await vault.keys.decrypt(workspace, decrypt_all(("clv1:1:nothing", {})))
        assert await events(superuser, workspace) == before

    async def test_without_its_record_nothing_is_shown(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.keys.create_key(workspace, CREATE)
        sealed = await vault.keys.encrypt(workspace, encrypt())
        async with superuser.transaction():
            await superuser.execute("LOCK TABLE vault.outbox IN ACCESS EXCLUSIVE MODE")
            waiting = asyncio.create_task(vault.keys.decrypt(workspace, decrypt(sealed.ciphertext)))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert (await waiting).plaintext is not None

    async def test_of_a_key_that_is_not_there_is_refused(self, vault: "Vault", workspace: AuthContext) -> None:
        with pytest.raises(NotFound, match="There is no key 'orders'"):
            await vault.keys.decrypt(workspace, decrypt("clv1:1:x"))

    async def test_a_request_has_one_form(self, vault: "Vault", workspace: AuthContext) -> None:
        await vault.keys.create_key(workspace, CREATE)
        with pytest.raises(InvalidInput) as refused:
            await vault.keys.decrypt(workspace, Decrypt(name="orders"))
        assert refused.value.fields == {"ciphertext": ["is needed, or items"]}
        both = Decrypt.model_validate({"name": "orders", "ciphertext": "x", "items": [{"ciphertext": "x"}]})
        with pytest.raises(InvalidInput) as refused:
            await vault.keys.decrypt(workspace, both)
        assert set(refused.value.fields or {}) == {"ciphertext"}
