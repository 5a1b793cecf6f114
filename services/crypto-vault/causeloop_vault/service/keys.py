"""Named keys: a workspace encrypts and decrypts its own data under keys that never leave the vault."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from pydantic import SecretStr

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.lists import page
from causeloop_common.contracts.vault import (
    CipherItem,
    CreateKey,
    DataDecrypted,
    Decrypt,
    Decrypted,
    DecryptedItem,
    Encrypt,
    Encrypted,
    EncryptedItem,
    ItemError,
    KeyCreated,
    KeyPage,
    KeyView,
    ListKeys,
    PlainItem,
)
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, InvalidInput, NotFound
from causeloop_common.memory import Memory
from causeloop_vault import repository
from causeloop_vault.domain import envelope, named_keys, places
from causeloop_vault.service.keyrings import Keyring, Keyrings, StaleKeyring, with_keyring

_NO_BASE64 = "is not base64"
_NOT_OPENED = "does not open under this key in this context"


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A named key's material in clear, by version."""

    id: str
    material: dict[int, bytes] = field(repr=False)
    places: dict[int, envelope.Places]
    version: int

    @classmethod
    def of(cls, tenant: str, key_id: str, material: dict[int, bytes]) -> Self:
        """A tenant's key, whose newest version seals."""
        purpose = named_keys.purpose(key_id)
        places = {version: envelope.Places(tenant, purpose, version) for version in material}
        return cls(key_id, material, places, max(material))

    def seal_all(self, items: Sequence[tuple[bytes, Mapping[str, str] | None]], entropy: bytes) -> list[str]:
        """Ciphertexts of plaintexts, each with its context, under the newest version."""
        places = self.places[self.version]
        placed = [(plaintext, places.of(named_keys.record(context))) for plaintext, context in items]
        return envelope.seal_all(self.material[self.version], self.version, placed, entropy)

    def open_all(self, items: Sequence[tuple[str, Mapping[str, str] | None]]) -> list[bytes | None]:
        """Plaintexts of ciphertexts, each with its context; None for one that does not open."""
        openers = {version: envelope.Opener(material) for version, material in self.material.items()}
        opened: list[bytes | None] = []
        for text, context in items:
            try:
                version = envelope.version_of(text)
                opened.append(openers[version].open(text, self.places[version].of(named_keys.record(context))))
            except (envelope.NotOpened, KeyError):
                opened.append(None)
        return opened


class KeyService:
    """Create and list named keys; encrypt and decrypt under them."""

    def __init__(
        self,
        database: Database,
        keyrings: Keyrings,
        memory: Memory[tuple[str, str], NamedKey],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database = database
        self._keyrings = keyrings
        self._entropy = entropy
        self._memory = memory

    @with_keyring
    async def create_key(self, ctx: AuthContext, command: CreateKey, keyring: Keyring) -> KeyView:
        """Make a named key at version 1, its material sealed under the tenant's data key."""
        async with self._database.transaction(ctx, command) as tx:
            key_id, material = ids.new("key"), self._entropy(named_keys.MATERIAL_BYTES)
            sealed = keyring.seal(places.of_key(key_id, 1), material, self._entropy(envelope.ENTROPY_BYTES))

            key = await repository.add_key(tx, key_id, command.name, command.type, sealed)
            if key is None:
                raise Conflict(f"There is a key '{command.name}' in this workspace already. Use it, or another name.")
            if not await repository.is_primary(tx, keyring.version):
                raise StaleKeyring

            tx.publish(KeyCreated(key_id=key.id, version=key.version))
            return tx.answer(key)

    async def list_keys(self, ctx: AuthContext, command: ListKeys) -> KeyPage:
        """Named keys without their material, by name."""
        async with self._database.transaction(ctx) as tx:
            found = await repository.keys_after(tx, command.position or "", command.wanted)
        return page(found, command, key=lambda key: key.name)

    async def encrypt(self, ctx: AuthContext, command: Encrypt) -> Encrypted:
        """Ciphertexts for the client to keep. Nothing is read or changed, so a remembered key needs no transaction."""
        key = await self._key(ctx, command.name)
        if command.items is None:
            if command.plaintext is None:
                raise InvalidInput.of(plaintext="is needed, or items")
            one = _plaintext(command.plaintext)
            if one is None:
                raise InvalidInput.of(plaintext=_NO_BASE64)
            (ciphertext,) = key.seal_all([(one, command.context)], self._entropy(envelope.ENTROPY_BYTES))
            return Encrypted(ciphertext=ciphertext)
        _refuse_both(command.context, plaintext=command.plaintext)
        return Encrypted(results=self._encrypt_items(key, command.items))

    async def decrypt(self, ctx: AuthContext, command: Decrypt) -> Decrypted:
        """Plaintexts of ciphertexts. That they were shown is committed before they leave."""
        key = await self._key(ctx, command.name)
        async with self._database.transaction(ctx) as tx:
            if command.items is None:
                if command.ciphertext is None:
                    raise InvalidInput.of(ciphertext="is needed, or items")
                (opened,) = key.open_all([(command.ciphertext, command.context)])
                if opened is None:
                    raise InvalidInput.of(ciphertext=_NOT_OPENED)
                count = 1
                answer = Decrypted(plaintext=_shown(opened))
            else:
                _refuse_both(command.context, ciphertext=command.ciphertext)
                results = _decrypt_items(key, command.items)
                count = sum(result.error is None for result in results)
                answer = Decrypted(results=results)

            if count:
                tx.publish(DataDecrypted(key_id=key.id, count=count))
        return answer

    def _encrypt_items(self, key: NamedKey, items: Sequence[PlainItem]) -> list[EncryptedItem]:
        read = [_plaintext(item.plaintext) for item in items]
        good = [(one, item.context) for one, item in zip(read, items, strict=True) if one is not None]
        sealed = iter(key.seal_all(good, self._entropy(envelope.entropy_bytes(len(good)))))
        if len(good) == len(items):
            return [EncryptedItem(ciphertext=ciphertext) for ciphertext in sealed]
        refused = EncryptedItem(error=ItemError(code=InvalidInput.code, detail=f"The plaintext {_NO_BASE64}."))
        return [refused if one is None else EncryptedItem(ciphertext=next(sealed)) for one in read]

    async def _key(self, ctx: AuthContext, name: str) -> NamedKey:
        """A named key, as it is remembered."""
        if (known := self._memory.get((ctx.tenant, name))) is not None:
            return known
        read = partial(self._keyrings.use, ctx, partial(self._read, ctx, name))
        return await self._memory.recall((ctx.tenant, name), read)

    async def _read(self, ctx: AuthContext, name: str, keyring: Keyring) -> tuple[NamedKey, tuple[str, ...]]:
        """A named key, read under row security, and its tags."""
        async with self._database.transaction(ctx) as tx:
            found = await repository.key_material(tx, name)
        if not found:
            raise NotFound(f"There is no key '{name}' in this workspace.")
        material = {one.version: keyring.open_(places.of_key(one.id, one.version), one.sealed) for one in found}
        key = NamedKey.of(ctx.tenant, found[-1].id, material)
        return key, (ctx.tenant, key.id)


def _decrypt_items(key: NamedKey, items: Sequence[CipherItem]) -> list[DecryptedItem]:
    refused = DecryptedItem(error=ItemError(code=InvalidInput.code, detail=f"The ciphertext {_NOT_OPENED}."))
    return [
        refused if opened is None else DecryptedItem(plaintext=_shown(opened))
        for opened in key.open_all([(item.ciphertext, item.context) for item in items])
    ]


def _shown(opened: bytes) -> SecretStr:
    return SecretStr(named_keys.write_plaintext(opened))


def _plaintext(text: SecretStr) -> bytes | None:
    try:
        return named_keys.read_plaintext(text.get_secret_value())
    except ValueError:  # binascii.Error is one, and so is a letter that is not ASCII
        return None


def _refuse_both(context: object, **one: object) -> None:
    """A request has one form: with `items` everything is in them."""
    given = {name: value for name, value in {**one, "context": context}.items() if value is not None}
    if given:
        raise InvalidInput.of(**dict.fromkeys(given, "does not go with items; put it into each of them"))
