"""The plain form of batches against the commands' models: whatever is sent, both accept and refuse the same."""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest
from pydantic import ValidationError

from causeloop_common.context import AuthContext
from causeloop_common.contracts.base import Command, Message
from causeloop_common.contracts.vault import (
    CIPHERTEXT_CHARS,
    ITEMS,
    PLAINTEXT_CHARS,
    CreateKey,
    Decrypt,
    Encrypt,
    PlainItem,
)
from causeloop_common.errors import AppError, NotFound
from causeloop_vault.domain.named_keys import Items
from causeloop_vault.handlers.plain import Plain, PlainForms, read

if TYPE_CHECKING:
    from conftest import Vault

BODIES = 20_000
VERBS: dict[str, tuple[type[Command[Any]], int]] = {
    "plaintext": (Encrypt, PLAINTEXT_CHARS),
    "ciphertext": (Decrypt, CIPHERTEXT_CHARS),
}
EACH = pytest.mark.parametrize("field", VERBS)
ODD: list[Any] = [
    None, True, 0, 1, -1.5, 2**60, "", "x", "é", "\x00", "QQ==", "a b", "a" * 64, "a" * 65, "a" * 128, "a" * 129,
    "é" * 256, "é" * 257, [], [1], [[]], [""], [{}], {}, {"a": "b"}, {"a": None}, {"é": "b"}, {"": ""}, {"a\n": "b"},
    {"plaintext": "QQ=="}, {"ciphertext": "x"}, [{"plaintext": "QQ=="}], [{"ciphertext": "x"}], {"a": {"b": "c"}},
    {f"n{number}": "" for number in range(16)}, {f"n{number}": "" for number in range(17)},
]  # fmt: skip
NAMES = ["name", "plaintext", "ciphertext", "context", "items", "x", "Name", "", "näme"]


def contexts(draw: random.Random) -> dict[str, str]:
    names = ["table", "row", "a.b", "-", "n" * 64, "0"]
    return {
        draw.choice(names): draw.choice(["1", "orders", "", "é", "x" * 256, '"', "\\"])
        for _ in range(draw.randint(0, 3))
    }


def item(draw: random.Random, field: str, texts: tuple[str, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {
        field: draw.choice(["", "QQ==", "no base64", "clv1:1:AAAA", "é", "QUJDRA==", *texts, *texts])
    }
    if draw.random() < 0.4:
        made["context"] = contexts(draw)
    return made


def spoil(draw: random.Random, value: Any) -> Any:
    """The value with something else in one place, or one name more or fewer."""
    if isinstance(value, dict) and draw.random() < 0.9:
        value, name = dict(value), draw.choice([*value, *NAMES])
        turn = draw.random()
        if turn < 0.2:
            value.pop(name, None)
        elif turn < 0.6 and name in value:
            value[name] = spoil(draw, value[name])
        else:
            value[name] = draw.choice(ODD)
        return value
    if isinstance(value, list) and value and draw.random() < 0.9:
        value, place = list(value), draw.randrange(len(value))
        value[place] = spoil(draw, value[place])
        return value
    return draw.choice(ODD)


def bodies(seed: int, field: str, *texts: str) -> Iterator[bytes]:
    """Bodies of which about half are as clients send them; each other one has something wrong, or unusual, in it."""
    draw = random.Random(seed)
    for _ in range(BODIES):
        request: Any = {"name": draw.choice(["orders", "a", "A.b-c_9"])}
        if draw.random() < 0.1:
            request |= item(draw, field, texts)
        else:
            request["items"] = [item(draw, field, texts) for _ in range(draw.randint(1, 5))]
        for _ in range(draw.choice([0, 0, 0, 1, 2])):
            request = spoil(draw, request)
        text = json.dumps(request, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, None, 1]))
        if draw.random() < 0.05:  # it is cut, or something is put in
            place = draw.randrange(len(text))
            text = (
                text[:place]
                + draw.choice(["", ",", '"', "\\u0041", "\\ud800", "}", " ", "NaN", "\x01"])
                + text[place + 1 :]
            )
        yield text.encode()


def edges(field: str) -> Iterator[bytes]:
    """Batches at the bounds of the contract, and beyond them."""
    good = {field: "QQ=="}

    def batch(*items: Any, **more: Any) -> bytes:
        return orjson.dumps({"name": "a", "items": items, **more})

    for size in (0, VERBS[field][1], VERBS[field][1] + 1):
        yield batch({field: "A" * size})
        yield batch({field: "é" * size}, good)
    for count in (0, 1, ITEMS, ITEMS + 1):
        yield batch(*[good] * count)
        yield batch(*[{**good, "context": {"n" * 64: "é" * 256}}] * count)
    for name in ("a" * 64, "a" * 65, "a" * 128, "a" * 129, "a\n", "\na", ".a", "a/b", "é", ""):
        yield batch(good, name=name)
        yield batch({**good, "context": {name: ""}})
    for odd in ODD:
        for place in ("name", field, "context", "items", "x"):
            yield batch(good, **{place: odd})
            yield batch(good, {**good, place: odd})
        yield batch(good, odd)
        yield batch({**good, "context": {"a": odd}})
    yield from (b"", b"{}", b"[]", b"null", b"\xff", b'{"name":"a"}', b'"items"', b'["name","items"]')
    yield from (before + b"[" * 2000 for before in (b"", b'{"name":"a","items":'))
    yield b"\xef\xbb\xbf" + batch(good)
    yield b'{"name":"a","items":[{"%s":"x"}],"items":[{"%s":"y"}]}' % (field.encode(), field.encode())


def modelled(field: str, body: bytes) -> Plain | None:
    """The batch as the command's model reads it; None if that refuses it, or if it is no batch."""
    try:
        command: Any = VERBS[field][0].from_json(body)
    except ValidationError:
        return None
    if command.items is None or getattr(command, field) is not None or command.context is not None:
        return None
    texts = [getattr(each, field) for each in command.items]
    clear = [text if isinstance(text, str) else text.get_secret_value() for text in texts]
    return Plain(command.name, Items(clear, [each.context or None for each in command.items]))


def plain(field: str, body: bytes) -> Plain | None:
    found = read(body, field, VERBS[field][1])
    return found and Plain(found.name, Items(found.items.texts, [each or None for each in found.items.contexts]))


@EACH
class TestRead:
    @pytest.mark.parametrize("seed", range(2))
    def test_what_is_plain_means_what_the_model_reads(self, field: str, seed: int) -> None:
        accepted = refused = unusual = 0
        for body in bodies(seed, field):
            mine, theirs = plain(field, body), modelled(field, body)
            assert mine is None or mine == theirs, body
            accepted += mine is not None
            refused += theirs is None
            unusual += mine is None and theirs is not None
        assert accepted > BODIES / 3
        assert refused > BODIES / 3
        assert 0 < unusual < BODIES / 20

    def test_at_the_bounds_of_the_contract_both_accept_and_refuse_the_same(self, field: str) -> None:
        for body in edges(field):
            mine, theirs = plain(field, body), modelled(field, body)
            assert mine is None or mine == theirs, body[:200]
            if b"null" not in body and b"\xbb" not in body:  # a field that is null has no plain form
                assert (mine is None) == (theirs is None), body[:200]

    def test_no_text_is_printed(self, field: str) -> None:
        assert "Y2FuYXJ5" not in repr(read(orjson.dumps({"name": "a", "items": [{field: "Y2FuYXJ5"}]}), field, 100))


class TestAnswers:
    @pytest.fixture
    def vault(self, new_vault: Callable[..., "Vault"]) -> "Vault":
        """A vault without randomness: the same request has the same answer."""
        return new_vault(entropy=lambda size: (bytes(range(48)) * (size // 48 + 1))[:size])

    @pytest.mark.parametrize(
        ("field", "verb", "most"), [("plaintext", "encrypt", 1500), ("ciphertext", "decrypt", 200)]
    )
    async def test_are_those_of_the_model_to_the_byte(
        self, vault: "Vault", workspace: AuthContext, field: str, verb: str, most: int
    ) -> None:
        for name in ("orders", "a"):
            await vault.keys.create_key(workspace, CreateKey(name=name, type="aes256-gcm"))
        items = [PlainItem.model_validate({"plaintext": "QQ==", "context": one}) for one in ({}, {"row": "1"})]
        sealed = await vault.keys.encrypt(workspace, Encrypt(name="orders", items=items))
        good = [one.ciphertext or "" for one in sealed.results or []]
        answer = getattr(PlainForms(vault.keys), f"{verb}_batch")
        answered = 0
        for body in itertools.islice(bodies(7, field, *good), most):
            theirs = await by_model(vault, workspace, verb, body)
            try:
                mine = await answer(workspace, body)
            except NotFound as error:
                mine = str(error)
            assert mine in (None, theirs), body
            answered += mine is not None
        assert answered > most / 4

    async def test_of_decrypt_are_recorded(
        self, vault: "Vault", workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await vault.keys.create_key(workspace, CreateKey(name="orders", type="aes256-gcm"))
        forms = PlainForms(vault.keys)
        batch = b'{"name":"orders","items":[{"plaintext":"QQ=="},{"plaintext":"no"}]}'
        sealed, refused = orjson.loads(await forms.encrypt_batch(workspace, batch) or b"")["results"]
        assert refused == {"error": {"code": "validation_error", "detail": "The plaintext is not base64."}}
        for items in ([sealed, {"ciphertext": "clv1:1:x"}, sealed], [{"ciphertext": ""}], [sealed]):
            body = orjson.dumps({"name": "orders", "items": items})
            assert await forms.decrypt_batch(workspace, body) == await by_model(vault, workspace, "decrypt", body)
        rows = await superuser.fetch(
            "SELECT data FROM vault.outbox WHERE workspace_id = $1 AND type = 'vault.data_decrypted' ORDER BY seq",
            workspace.tenant_uuid,
        )
        assert [orjson.loads(row["data"])["count"] for row in rows] == [2, 2, 1, 1]


async def by_model(vault: "Vault", ctx: AuthContext, verb: str, body: bytes) -> bytes | str:
    """The answer to a request that is read as the command's model, or the sentence of its refusal."""
    try:
        kind: type[Command[Any]] = Encrypt if verb == "encrypt" else Decrypt
        command = kind.from_json(body)
        reply: Message = await getattr(vault.keys, verb)(ctx, command)
    except (ValidationError, AppError) as error:
        return str(error)
    return reply.to_json()
