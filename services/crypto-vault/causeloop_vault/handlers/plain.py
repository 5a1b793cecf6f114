"""The plain form of a batch to encrypt or decrypt, read and written by hand: models cost as much as encrypting it.

A batch is plain if it has the fields that clients send, and all of them within the bounds of the contract. Any other
request, of a single text too, is read as the command's model, which accepts or refuses it. The model would accept a
plain batch with the same meaning and the same answer: a test compares both on bodies made at random.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import (
    CIPHERTEXT_CHARS,
    CONTEXT_NAME_CHARS,
    CONTEXT_NAMES,
    CONTEXT_VALUE_CHARS,
    ITEMS,
    KEY_NAME_CHARS,
    NAME_PATTERN,
    PLAINTEXT_CHARS,
)
from causeloop_vault.domain.named_keys import Items, write_plaintext
from causeloop_vault.service import KeyService
from causeloop_vault.service.keys import NOT_BASE64, NOT_OPENED

_FIELDS = {"name", "items"}
_NAME = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")
_NOT_BASE64 = {"error": NOT_BASE64.model_dump()}
_NOT_OPENED = {"error": NOT_OPENED.model_dump()}


class Plain(NamedTuple):
    """A batch in its plain form."""

    name: str
    items: Items


class PlainForms:
    """Answers batches in their plain form, JSON to JSON; None for anything else."""

    def __init__(self, keys: KeyService) -> None:
        self._keys = keys

    async def encrypt_batch(self, ctx: AuthContext, body: bytes) -> bytes | None:
        """The items' ciphertexts."""
        batch = read(body, "plaintext", PLAINTEXT_CHARS)
        if batch is None:
            return None
        sealed = await self._keys.encrypt_items(ctx, batch.name, batch.items)
        return orjson.dumps({"results": [_NOT_BASE64 if one is None else {"ciphertext": one} for one in sealed]})

    async def decrypt_batch(self, ctx: AuthContext, body: bytes) -> bytes | None:
        """The items' plaintexts."""
        batch = read(body, "ciphertext", CIPHERTEXT_CHARS)
        if batch is None:
            return None
        opened = await self._keys.decrypt_items(ctx, batch.name, batch.items)
        shown = [_NOT_OPENED if one is None else {"plaintext": write_plaintext(one)} for one in opened]
        return orjson.dumps({"results": shown})


def read(body: bytes, field: str, most: int) -> Plain | None:
    """A batch in JSON whose texts are in `field` and have `most` characters each; None if it has no plain form."""
    if b'"items"' not in body:
        return None
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(request) is not dict or request.keys() != _FIELDS:
        return None
    name, items = request["name"], request["items"]
    if type(name) is not str or not _is_name(name, KEY_NAME_CHARS):
        return None
    if type(items) is not list or not 0 < len(items) <= ITEMS:  # lengths before content
        return None
    if (texts := _texts(items, field, most)) is None or (contexts := _contexts(items)) is None:
        return None
    return Plain(name, Items(texts, contexts))


def _texts(items: Sequence[Any], field: str, most: int) -> list[str] | None:
    """The items' texts; None unless each item is an object with one that is not too long."""
    try:
        texts = [item[field] for item in items]
    except (LookupError, TypeError):  # not all of them have one, or are objects
        return None
    return texts if {*map(type, texts)} == {str} and max(map(len, texts)) <= most else None


def _contexts(items: Sequence[Any]) -> Sequence[Mapping[str, str] | None] | None:
    """The contexts of items that have a text; None if one is too large, or an item has something else."""
    if {*map(len, items)} == {1}:
        return [None] * len(items)
    contexts = []
    for item in items:
        context = item.get("context", {})
        if len(item) != 1 + ("context" in item) or type(context) is not dict or len(context) > CONTEXT_NAMES:
            return None
        for name, value in context.items():
            if not _is_name(name, CONTEXT_NAME_CHARS) or type(value) is not str or len(value) > CONTEXT_VALUE_CHARS:
                return None
        contexts.append(context)
    return contexts


def _is_name(text: str, most: int) -> bool:
    return len(text) <= most and _NAME.match(text) is not None
