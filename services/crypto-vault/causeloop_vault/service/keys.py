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
)
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, InvalidInput, NotFound
from causeloop_common.memory import Memory
from causeloop_vault import repository
from causeloop_vault.domain import envelope, named_keys, places
from causeloop_vault.domain.named_keys import Items
from causeloop_vault.service.keyrings import Keyring, Keyrings, StaleKeyring, with_keyring

_NOT_BASE64 = "is not base64"
_NOT_OPENED = "does not open under this key in this context"
NOT_BASE64 = ItemError(code=InvalidInput.code, detail=f"The plaintext {_NOT_BASE64}.")
NOT_OPENED = ItemError(code=InvalidInput.code, detail=f"The ciphertext {_NOT_OPENED}.")


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
        bare = places.of(named_keys.record(None))
        placed = [(one, places.of(named_keys.record(context)) if context else bare) for one, context in items]
        return envelope.seal_all(self.material[self.version], self.version, placed, entropy)

    def open_all(self, items: Items) -> list[bytes | None]:
        """Plaintexts of ciphertexts, each with its context; None for one that does not open."""
        openers = {version: envelope.Opener(material) for version, material in self.material.items()}
        bare = {version: places.of(named_keys.record(None)) for version, places in self.places.items()}
        opened: list[bytes | None] = []
        for text, context in zip(items.texts, items.contexts, strict=True):
            try:
                version, body = envelope.parts(text)
                at = self.places[version].of(named_keys.record(context)) if context else bare[version]
                opened.append(openers[version].open(body, at))
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
        async with self._database.reading(ctx) as tx:
            found = await repository.keys_after(tx, command.position or "", command.wanted)
        return page(found, command, key=lambda key: key.name)

    async def encrypt(self, ctx: AuthContext, command: Encrypt) -> Encrypted:
        """Ciphertexts for the client to keep; of one plaintext, or of items."""
        key = await self._key(ctx, command.name)
        if command.items is not None:
            _refuse_both(command.context, plaintext=command.plaintext)
            plain = Items([i.plaintext.get_secret_value() for i in command.items], [i.context for i in command.items])
            refused = EncryptedItem(error=NOT_BASE64)
            sealed = self._seal(key, plain)
            return Encrypted(results=[refused if one is None else EncryptedItem(ciphertext=one) for one in sealed])

        if command.plaintext is None:
            raise InvalidInput.of(plaintext="is needed, or items")
        (ciphertext,) = self._seal(key, Items([command.plaintext.get_secret_value()], [command.context]))
        if ciphertext is None:
            raise InvalidInput.of(plaintext=_NOT_BASE64)
        return Encrypted(ciphertext=ciphertext)

    async def encrypt_items(self, ctx: AuthContext, name: str, items: Items) -> list[str | None]:
        """Ciphertexts of plaintexts under a named key; None for one that is not base64."""
        return self._seal(await self._key(ctx, name), items)

    async def decrypt(self, ctx: AuthContext, command: Decrypt) -> Decrypted:
        """Plaintexts of ciphertexts; of one, or of items."""
        key = await self._key(ctx, command.name)
        if command.items is not None:
            _refuse_both(command.context, ciphertext=command.ciphertext)
            sealed = Items([i.ciphertext for i in command.items], [i.context for i in command.items])
            refused = DecryptedItem(error=NOT_OPENED)
            opened = await self._open(ctx, key, sealed)
            return Decrypted(
                results=[refused if one is None else DecryptedItem(plaintext=_shown(one)) for one in opened]
            )

        if command.ciphertext is None:
            raise InvalidInput.of(ciphertext="is needed, or items")
        (plaintext,) = await self._open(ctx, key, Items([command.ciphertext], [command.context]))
        if plaintext is None:
            raise InvalidInput.of(ciphertext=_NOT_OPENED)
        return Decrypted(plaintext=_shown(plaintext))

    async def decrypt_items(self, ctx: AuthContext, name: str, items: Items) -> list[bytes | None]:
        """Plaintexts of ciphertexts under a named key; None for one that does not open."""
        return await self._open(ctx, await self._key(ctx, name), items)

    def _seal(self, key: NamedKey, items: Items) -> list[str | None]:
        """Nothing is read or changed, so a remembered key needs no transaction."""
        read = named_keys.read_plaintexts(items.texts)
        good = [(one, context) for one, context in zip(read, items.contexts, strict=True) if one is not None]
        sealed = iter(key.seal_all(good, self._entropy(envelope.entropy_bytes(len(good)))))
        return [*sealed] if len(good) == len(read) else [None if one is None else next(sealed) for one in read]

    async def _open(self, ctx: AuthContext, key: NamedKey, items: Items) -> list[bytes | None]:
        """That they were shown is committed before they leave."""
        async with self._database.transaction(ctx) as tx:
            opened = key.open_all(items)

            if count := len(opened) - opened.count(None):
                tx.publish(DataDecrypted(key_id=key.id, count=count))
        return opened

    async def _key(self, ctx: AuthContext, name: str) -> NamedKey:
        """A named key, as it is remembered."""
        if (known := self._memory.get((ctx.tenant, name))) is not None:
            return known
        read = partial(self._keyrings.use, ctx, partial(self._read, ctx, name))
        return await self._memory.recall((ctx.tenant, name), read)

    async def _read(self, ctx: AuthContext, name: str, keyring: Keyring) -> tuple[NamedKey, tuple[str, ...]]:
        """A named key, read under row security, and its tags."""
        async with self._database.reading(ctx) as tx:
            found = await repository.key_material(tx, name)
        if not found:
            raise NotFound(f"There is no key '{name}' in this workspace.")
        material = {one.version: keyring.open_(places.of_key(one.id, one.version), one.sealed) for one in found}
        key = NamedKey.of(ctx.tenant, found[-1].id, material)
        return key, (ctx.tenant, key.id)


def _shown(opened: bytes) -> SecretStr:
    return SecretStr(named_keys.write_plaintext(opened))


def _refuse_both(context: object, **one: object) -> None:
    """A request has one form: with `items` everything is in them."""
    given = {name: value for name, value in {**one, "context": context}.items() if value is not None}
    if given:
        raise InvalidInput.of(**dict.fromkeys(given, "does not go with items; put it into each of them"))
