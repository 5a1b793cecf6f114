"""Keyrings: the tenants' data keys in clear. Only this process ever holds one."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import KeyringCreated
from causeloop_common.database import Database, Transaction
from causeloop_common.errors import Internal, Unavailable
from causeloop_vault import repository
from causeloop_vault.domain import envelope
from causeloop_vault.repository import WrappedKey
from causeloop_vault.service.memory import Memory

DATA_KEY_BYTES = 32
REMEMBERED_TENANTS = 10_000


class MasterKeys(Protocol):
    """The keeper of the master keys: wraps data keys and unwraps them, each for one place."""

    def wrap(self, data_key: bytes, tenant: str, version: int) -> tuple[str, str]:
        """The wrapped data key and the fingerprint of its master key."""
        ...

    def unwrap(self, wrapped: str, master: str, tenant: str, version: int) -> bytes:
        """The data key; NotOpened when it does not open here."""
        ...


@dataclass(frozen=True, slots=True)
class Keyring:
    """A tenant's data keys in clear, by version: seals and opens at the tenant's places."""

    tenant: str
    keys: dict[int, bytes] = field(repr=False)
    version: int

    def seal(self, purpose: str, record: str, plaintext: bytes, entropy: bytes) -> str:
        """The ciphertext of `plaintext` at its place, under the newest key."""
        at = envelope.place(self.tenant, purpose, record, self.version)
        return envelope.seal(self.keys[self.version], self.version, plaintext, at, entropy)

    def open_(self, purpose: str, record: str, sealed: str) -> bytes:
        """The plaintext of a stored ciphertext; Internal when it does not belong where it was found."""
        try:
            version = envelope.version_of(sealed)
            return envelope.open_(self.keys[version], sealed, envelope.place(self.tenant, purpose, record, version))
        except (envelope.NotOpened, KeyError) as error:
            raise Internal("The stored ciphertext does not open at its place. Report it with the trace id.") from error


class Keyrings:
    """Every tenant's keyring: made on first use, remembered for a while."""

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
        self._memory: Memory[str, Keyring] = Memory(REMEMBERED_TENANTS, monotonic)

    async def keyring(self, tx: Transaction, version: int | None = None) -> Keyring:
        """The tenant's keyring, made on first use; read again when old or when it lacks `version`."""
        tenant = tx.ctx.tenant
        known = self._memory.get(tenant)
        if known is not None and (version is None or version in known.keys):
            return known
        wrapped = await repository.data_keys(tx)
        if not wrapped:
            return await self._new(tx)
        keyring = self._unwrapped(tenant, wrapped)
        self._memory.keep(tenant, keyring)
        return keyring

    async def check_master_key(self) -> None:
        """The canary: the installation's own keyring opens under the configured master keys."""
        ctx = on_its_own_account("canary")
        self._memory.forget(ids.INSTALLATION)
        async with self._database.transaction(ctx) as tx:
            try:
                await self.keyring(tx)
            except Internal as error:
                raise Unavailable(
                    "CAUSELOOP_MASTER_KEY does not open this database's keys: set the right one."
                ) from error

    async def _new(self, tx: Transaction) -> Keyring:
        """The first data key of a tenant. Not remembered: it exists only once this transaction is committed."""
        tenant = tx.ctx.tenant
        key = self._entropy(DATA_KEY_BYTES)
        wrapped, master = self._master_keys.wrap(key, tenant, 1)
        if await repository.add_data_key(tx, WrappedKey(1, wrapped, master)):
            tx.publish(KeyringCreated(keyring=tenant, version=1))
            return Keyring(tenant, {1: key}, 1)
        return self._unwrapped(tenant, await repository.data_keys(tx))

    def _unwrapped(self, tenant: str, wrapped: list[WrappedKey]) -> Keyring:
        try:
            keys = {k.version: self._master_keys.unwrap(k.wrapped, k.master, tenant, k.version) for k in wrapped}
        except envelope.NotOpened as error:
            raise Internal("The tenant's data key does not open. An operator must look at the master key.") from error
        return Keyring(tenant, keys, wrapped[-1].version)


def on_its_own_account(request_id: str) -> AuthContext:
    """The context of the vault's own acts, in the installation's realm."""
    return AuthContext(
        tenant=ids.INSTALLATION, principal="svc_vault", permissions=frozenset(), issuer="vault", request_id=request_id
    )
