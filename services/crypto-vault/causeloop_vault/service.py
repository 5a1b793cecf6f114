"""Use cases of the vault. Only this process ever holds a plaintext key."""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import (
    GetSecret,
    KeyringCreated,
    ListSecrets,
    PutSecret,
    RevealedSecret,
    RevealSecret,
    Seal,
    SealedData,
    SecretPage,
    SecretRevealed,
    SecretView,
    SecretWritten,
)
from causeloop_common.database import Database, Transaction
from causeloop_common.errors import Conflict, Forbidden, Internal, NotFound, Unavailable
from causeloop_vault import repository
from causeloop_vault.domain import envelope
from causeloop_vault.repository import Secret, WrappedKey

DATA_KEY_BYTES = 32
REMEMBERED_TENANTS = 10_000
REMEMBERED_SECONDS = 300.0

_SECRET_PURPOSE = "secret"  # noqa: S105  a word in the additional data
_PURPOSES = {"auth": {"session"}}
"""What each issuer may have sealed."""


class MasterKeys(Protocol):
    """Whoever keeps the master keys: wraps data keys and unwraps them, for one place each."""

    def wrap(self, data_key: bytes, tenant: str, version: int) -> tuple[str, str]:
        """The wrapped data key and the fingerprint of its master key."""
        ...

    def unwrap(self, wrapped: str, master: str, tenant: str, version: int) -> bytes:
        """The data key; NotOpened when it does not open here."""
        ...


@dataclass(frozen=True, slots=True)
class Keyring:
    """A tenant's data keys in clear, by version. Lives in this process's memory alone."""

    keys: dict[int, bytes]
    version: int
    read_at: float

    @property
    def current(self) -> bytes:
        """The key that seals."""
        return self.keys[self.version]


class VaultService:
    """Secrets, and sealing for other services."""

    def __init__(
        self,
        database: Database,
        master_keys: MasterKeys,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._master_keys = master_keys
        self._entropy = entropy
        self._monotonic = monotonic
        self._remembered: OrderedDict[str, Keyring] = OrderedDict()

    async def put_secret(self, ctx: AuthContext, command: PutSecret) -> SecretView:
        """Write a new version of a secret, made on first use, sealed for its place."""
        async with self._database.transaction(ctx) as tx:
            await tx.once(command)
            keyring = await self._keyring(tx)

            secret = await repository.write_secret(tx, command.path, command.version)
            if secret is None:
                raise Conflict("The secret's version is not the one you named. Read it again and decide.")

            at = envelope.place(ctx.tenant, _SECRET_PURPOSE, _record(secret.path, secret.version), keyring.version)
            sealed = self._seal(keyring, command.value.get_secret_value().encode(), at)
            await repository.add_version(tx, secret, sealed, ctx.principal)

            tx.publish(SecretWritten(secret_id=secret.id, version=secret.version))
            return tx.answer(_view(secret))

    async def get_secret(self, ctx: AuthContext, command: GetSecret) -> SecretView:
        """What is known of a secret without its value."""
        async with self._database.transaction(ctx) as tx:
            secret = await repository.secret(tx, command.path)
        if secret is None:
            raise _no_secret(command.path)
        return _view(secret)

    async def list_secrets(self, ctx: AuthContext, command: ListSecrets) -> SecretPage:
        """Secrets without their values, by path."""
        async with self._database.transaction(ctx) as tx:
            found = await repository.secrets_after(tx, command.position or "", command.limit + 1)
        page, more = found[: command.limit], len(found) > command.limit
        return SecretPage(data=[_view(secret) for secret in page], next_position=page[-1].path if more else None)

    async def reveal_secret(self, ctx: AuthContext, command: RevealSecret) -> RevealedSecret:
        """A secret's value. That it was shown is committed before it leaves."""
        async with self._database.transaction(ctx) as tx:
            found = await repository.sealed_secret(tx, command.path, command.version)
            if found is None:
                raise _no_secret(command.path)

            version = envelope.version_of(found.sealed)
            keyring = await self._keyring(tx, version)
            at = envelope.place(ctx.tenant, _SECRET_PURPOSE, _record(found.path, found.version), version)
            value = self._open(keyring, version, found.sealed, at)

            tx.publish(SecretRevealed(secret_id=found.id, version=found.version))
        return RevealedSecret.model_validate(
            {"id": found.id, "path": found.path, "version": found.version, "value": value.decode()}
        )

    async def seal(self, ctx: AuthContext, command: Seal) -> SealedData:
        """Seal data of another service under the tenant's key, for a purpose of that service alone."""
        if command.purpose not in _PURPOSES.get(ctx.issuer, ()):
            raise Forbidden(f"The purpose '{command.purpose}' is not the asking service's.")
        async with self._database.transaction(ctx) as tx:
            keyring = await self._keyring(tx)
        at = envelope.place(ctx.tenant, f"{ctx.issuer}/{command.purpose}", command.record_id, keyring.version)
        return SealedData(ciphertext=self._seal(keyring, command.plaintext.get_secret_value().encode(), at))

    async def check_master_key(self) -> None:
        """The canary: the installation's own keyring opens under the configured master keys."""
        ctx = AuthContext(ids.INSTALLATION, "svc_vault", frozenset(), issuer="vault", request_id="canary")
        self._remembered.pop(ids.INSTALLATION, None)
        async with self._database.transaction(ctx) as tx:
            try:
                await self._keyring(tx)
            except Internal as error:
                raise Unavailable(
                    "CAUSELOOP_MASTER_KEY does not open this database's keys: set the right one."
                ) from error

    async def _keyring(self, tx: Transaction, version: int | None = None) -> Keyring:
        """The tenant's keyring, made on first use; read again when old or when it lacks `version`."""
        tenant = tx.ctx.tenant
        known = self._remembered.get(tenant)
        if (
            known is not None
            and self._monotonic() - known.read_at < REMEMBERED_SECONDS
            and (version is None or version in known.keys)
        ):
            return known
        wrapped = await repository.keys(tx)
        if not wrapped:
            return await self._new_keyring(tx)
        keyring = self._unwrapped(tenant, wrapped)
        self._remembered[tenant] = keyring
        self._remembered.move_to_end(tenant)
        if len(self._remembered) > REMEMBERED_TENANTS:
            self._remembered.popitem(last=False)
        return keyring

    async def _new_keyring(self, tx: Transaction) -> Keyring:
        """The first data key of a tenant. Not remembered: it exists only once this transaction is committed."""
        tenant = tx.ctx.tenant
        key = self._entropy(DATA_KEY_BYTES)
        wrapped, master = self._master_keys.wrap(key, tenant, 1)
        if await repository.add_key(tx, WrappedKey(1, wrapped, master)):
            tx.publish(KeyringCreated(keyring=tenant, version=1))
            return Keyring({1: key}, 1, self._monotonic())
        return self._unwrapped(tenant, await repository.keys(tx))

    def _unwrapped(self, tenant: str, wrapped: list[WrappedKey]) -> Keyring:
        try:
            keys = {k.version: self._master_keys.unwrap(k.wrapped, k.master, tenant, k.version) for k in wrapped}
        except envelope.NotOpened as error:
            raise Internal("The tenant's data key does not open. An operator must look at the master key.") from error
        return Keyring(keys, wrapped[-1].version, self._monotonic())

    def _seal(self, keyring: Keyring, plaintext: bytes, at: bytes) -> str:
        return envelope.seal(keyring.current, keyring.version, plaintext, at, self._entropy(envelope.ENTROPY_BYTES))

    def _open(self, keyring: Keyring, version: int, sealed: str, at: bytes) -> bytes:
        try:
            return envelope.open_(keyring.keys[version], sealed, at)
        except (envelope.NotOpened, KeyError) as error:
            raise Internal("The stored ciphertext does not open at its place. Report it with the trace id.") from error


def _record(path: str, version: int) -> str:
    return f"{path}@{version}"


def _view(secret: Secret) -> SecretView:
    return SecretView(
        id=secret.id,
        path=secret.path,
        version=secret.version,
        created_at=secret.created_at,
        updated_at=secret.updated_at,
    )


def _no_secret(path: str) -> NotFound:
    return NotFound(f"There is no secret '{path}' in this workspace, or not that version of it.")
