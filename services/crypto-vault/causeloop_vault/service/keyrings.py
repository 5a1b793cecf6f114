"""Keyrings: the tenants' data keys in clear. Only this process ever holds one.

A data key is wrapped by a master key whose keeper may be far away, so it is wrapped and unwrapped before a transaction
begins, never inside it. A use case gets the keyring as it is remembered. When it meets something that is sealed under a
newer key, or needs the tenant's first one, it is rolled back and begins again with the keyring as it is by then.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Protocol, TypeVar
from uuid import UUID

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import WorkspaceCreated
from causeloop_common.contracts.topology import VAULT_EVENTS
from causeloop_common.contracts.vault import KeyringCreated
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, Internal, Unavailable
from causeloop_common.memory import Memory
from causeloop_vault import repository
from causeloop_vault.domain import envelope
from causeloop_vault.domain.places import Place
from causeloop_vault.repository import WrappedKey

DATA_KEY_BYTES = 32
MOST_VERSIONS = 1000
"""Of a tenant's data key: all of them are unwrapped when its keyring is read."""
KEEPER_SECONDS = 3.0
"""How long the keeper of the master keys may take for a keyring."""

T = TypeVar("T")
CommandT = TypeVar("CommandT")


class MasterKeys(Protocol):
    """The keeper of the master keys: wraps data keys and unwraps them, each for one place."""

    async def wrap(self, data_key: bytes, tenant: str, version: int) -> tuple[str, str]:
        """The wrapped data key and the fingerprint of its master key; Unavailable when the keeper does not answer."""
        ...

    async def unwrap(self, wrapped: str, master: str, tenant: str, version: int) -> bytes:
        """The data key; NotOpened when it does not open here, Unavailable when the keeper does not answer."""
        ...


class StaleKeyring(Exception):
    """The keyring in hand is older than the tenant's: a key is missing, or what seals is the primary no longer."""


class NoKeyring(StaleKeyring):
    """The tenant has no data key to seal under yet."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """A tenant's data keys in clear, by version: seals and opens at the tenant's places. Before its first use it is
    empty, at version 0.
    """

    tenant: str
    keys: dict[int, bytes] = field(repr=False)
    version: int

    def seal(self, place: Place, plaintext: bytes, entropy: bytes) -> str:
        """The ciphertext of `plaintext` at its place, under the primary key; NoKeyring when there is none."""
        return self.seal_all([(place, plaintext)], entropy)[0]

    def seal_all(self, items: Sequence[tuple[Place, bytes]], entropy: bytes) -> list[str]:
        """The ciphertexts of plaintexts, each at its place, as one request: see `envelope.seal_all`."""
        if not self.version:
            raise NoKeyring
        placed = [(plaintext, envelope.place(self.tenant, *place, self.version)) for place, plaintext in items]
        return envelope.seal_all(self.keys[self.version], self.version, placed, entropy)

    def open_(self, place: Place, sealed: str) -> bytes:
        """The plaintext of a stored ciphertext; Internal when it does not belong where it was found."""
        try:
            version = envelope.version_of(sealed)
            if version not in self.keys:
                raise StaleKeyring
            return envelope.open_(self.keys[version], sealed, envelope.place(self.tenant, *place, version))
        except envelope.NotOpened as error:
            raise Internal("The stored ciphertext does not open at its place. Report it with the trace id.") from error


class Keyrings:
    """Every tenant's keyring: made on first use, then remembered. Call it outside transactions."""

    def __init__(
        self,
        database: Database,
        master_keys: MasterKeys,
        memory: Memory[str, Keyring | None],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database = database
        self._master_keys = master_keys
        self._entropy = entropy
        self._memory = memory

    async def use(self, ctx: AuthContext, act: Callable[[Keyring], Awaitable[T]]) -> T:
        """What `act` returns, given the tenant's keyring. When it raises StaleKeyring it has done nothing, and begins
        again with a newer keyring; Internal when there is none.
        """
        keyring = self._memory.get(ctx.tenant)
        if keyring is None:
            keyring = await self._memory.recall(ctx.tenant, partial(self._read, ctx)) or _none(ctx)
        while True:
            try:
                return await act(keyring)
            except NoKeyring:
                keyring = await self.prepare(ctx)
            except StaleKeyring as stale:
                newer = await self._renewed(ctx)
                if newer.version <= keyring.version:
                    raise Internal("The tenant's keyring lacks a data key. Report it with the trace id.") from stale
                keyring = newer

    async def workspace_created(self, ctx: AuthContext, event: WorkspaceCreated, event_id: UUID) -> None:
        """Prepare the keyring of a new workspace, so that its first secret does not wait for it."""
        await self._make(ctx, event_id)

    async def prepare(self, ctx: AuthContext) -> Keyring:
        """The tenant's keyring as it is now, made if there is none."""
        keyring = await self._renewed(ctx)
        if not keyring.version:
            await self._make(ctx)
            keyring = await self._renewed(ctx)
        return keyring

    async def next_key(self, ctx: AuthContext) -> WrappedKey:
        """A new data key, wrapped as the version behind the primary, for `repository.rotate`. It is not stored yet."""
        keyring = await self.prepare(ctx)
        if keyring.version >= MOST_VERSIONS:
            raise Conflict(f"This keyring has {keyring.version} versions, and cannot have more. It goes on as it is.")
        return await self._wrapped(self._entropy(DATA_KEY_BYTES), ctx.tenant, keyring.version + 1)

    async def check_master_key(self) -> None:
        """The canary: the installation's own keyring opens under the configured master keys."""
        try:
            await self.prepare(on_its_own_account("canary"))
        except Internal as error:
            raise Unavailable("CAUSELOOP_MASTER_KEY does not open this database's keys: set the right one.") from error

    async def _renewed(self, ctx: AuthContext) -> Keyring:
        """The tenant's keyring as it is in the database now."""
        return await self._memory.renew(ctx.tenant, partial(self._read, ctx)) or _none(ctx)

    async def _read(self, ctx: AuthContext) -> tuple[Keyring | None, tuple[str, ...]]:
        async with self._database.reading(ctx) as tx:
            wrapped = await repository.data_keys(tx)
        if not wrapped:
            return None, (ctx.tenant,)
        return Keyring(ctx.tenant, await self._unwrapped(ctx.tenant, wrapped), wrapped[-1].version), (ctx.tenant,)

    async def _make(self, ctx: AuthContext, event_id: UUID | None = None) -> None:
        """Make the tenant's first data key, unless a racer is faster, or the event was handled before.

        It is the vault's own act, and no log shows whether the event or a member was faster.
        """
        first = await self._wrapped(self._entropy(DATA_KEY_BYTES), ctx.tenant, 1)
        async with self._database.transaction(ctx.of_service("vault")) as tx:
            if event_id is not None and not await tx.claim(VAULT_EVENTS.name, event_id):
                return
            if await repository.add_data_key(tx, first):
                tx.publish(KeyringCreated(keyring=ctx.tenant, version=1))

    async def _wrapped(self, key: bytes, tenant: str, version: int) -> WrappedKey:
        wrapped, master = await _in_time(self._master_keys.wrap(key, tenant, version))
        return WrappedKey(version, wrapped, master)

    async def _unwrapped(self, tenant: str, wrapped: list[WrappedKey]) -> dict[int, bytes]:
        unwrap = self._master_keys.unwrap
        try:
            keys = await _in_time(
                asyncio.gather(*(unwrap(key.wrapped, key.master, tenant, key.version) for key in wrapped))
            )
        except envelope.NotOpened as error:
            raise Internal("The tenant's data key does not open. An operator must look at the master key.") from error
        return {key.version: opened for key, opened in zip(wrapped, keys, strict=True)}


def _none(ctx: AuthContext) -> Keyring:
    return Keyring(ctx.tenant, {}, 0)


async def _in_time(answer: Awaitable[T]) -> T:
    """The answer of the keeper of the master keys; Unavailable when it takes too long."""
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return await answer
    except TimeoutError as error:
        raise Unavailable("The keeper of the master keys does not answer. Nothing was done; try again.") from error


class _HasKeyrings(Protocol):
    @property
    def _keyrings(self) -> Keyrings: ...


ServiceT = TypeVar("ServiceT", bound=_HasKeyrings)


def with_keyring(
    act: Callable[[ServiceT, AuthContext, CommandT, Keyring], Awaitable[T]],
) -> Callable[[ServiceT, AuthContext, CommandT], Coroutine[Any, Any, T]]:
    """A use case that is given the keyring, which is there before its transaction begins: see `Keyrings.use`."""

    @wraps(act)
    def use_case(self: ServiceT, ctx: AuthContext, command: CommandT) -> Coroutine[Any, Any, T]:
        return self._keyrings.use(ctx, partial(act, self, ctx, command))

    return use_case


def on_its_own_account(request_id: str) -> AuthContext:
    """The context of the vault's own acts, in the installation's realm."""
    return AuthContext(
        tenant=ids.INSTALLATION, principal="svc_vault", permissions=frozenset(), issuer="vault", request_id=request_id
    )
