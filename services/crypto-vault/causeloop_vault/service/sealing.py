"""Sealed values of other services: each is stored here, under a purpose of its service, and opened for that one alone.

It goes when its service deletes it, or when the event that its purpose names ends its record. A value that stands in an
event is sealed and not stored: the log keeps it.
"""

import os
from collections.abc import Callable, Iterable
from uuid import UUID

from pydantic import SecretStr

from causeloop_common.context import AuthContext
from causeloop_common.contracts.base import Event, Nothing
from causeloop_common.contracts.purpose import Purpose
from causeloop_common.contracts.topology import VAULT_EVENTS
from causeloop_common.contracts.vault import (
    DeleteSealedValue,
    OpenedValue,
    OpenSealedValue,
    Placed,
    Seal,
    SealedData,
    SealedValueDeleted,
    SealedValueOpened,
    SealedValueStored,
    StoreSealedValue,
)
from causeloop_common.database import Database, Transaction
from causeloop_common.errors import Forbidden, NotFound
from causeloop_vault import repository
from causeloop_vault.domain import envelope, places
from causeloop_vault.domain.places import Place
from causeloop_vault.service.keyrings import Keyring, Keyrings, StaleKeyring, with_keyring


class SealingService:
    """Seal; store, open and delete sealed values, also when their records end."""

    def __init__(
        self,
        database: Database,
        keyrings: Keyrings,
        purposes: Iterable[Purpose],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database = database
        self._keyrings = keyrings
        self._purposes = {(purpose.issuer, purpose.name): purpose for purpose in purposes}
        self._entropy = entropy

    @with_keyring
    async def seal(self, ctx: AuthContext, command: Seal, keyring: Keyring) -> SealedData:
        """Seal data of another service for an event. Nothing is read or changed, so there is no transaction."""
        place, plaintext = self._place(ctx, command), command.plaintext.get_secret_value().encode()
        return SealedData(ciphertext=keyring.seal(place, plaintext, self._entropy(envelope.ENTROPY_BYTES)))

    @with_keyring
    async def store_sealed_value(self, ctx: AuthContext, command: StoreSealedValue, keyring: Keyring) -> Nothing:
        """Seal a value and store it at its place, instead of the one that was there."""
        place, plaintext = self._place(ctx, command), command.plaintext.get_secret_value().encode()
        sealed = keyring.seal(place, plaintext, self._entropy(envelope.ENTROPY_BYTES))
        async with self._database.transaction(ctx) as tx:
            await repository.store_sealed_value(tx, place, sealed)
            if not await repository.is_primary(tx, keyring.version):
                raise StaleKeyring

            tx.publish(SealedValueStored(purpose=place.purpose, record=place.record))
        return Nothing()

    @with_keyring
    async def open_sealed_value(self, ctx: AuthContext, command: OpenSealedValue, keyring: Keyring) -> OpenedValue:
        """A stored value. That it was opened is committed before it leaves."""
        place = self._place(ctx, command)
        async with self._database.transaction(ctx) as tx:
            sealed = await repository.sealed_value(tx, place)
            if sealed is None:
                raise NotFound(f"There is no sealed value of '{command.record}' for this purpose.")

            plaintext = keyring.open_(place, sealed)

            tx.publish(SealedValueOpened(purpose=place.purpose, record=place.record))
        return OpenedValue(plaintext=SecretStr(plaintext.decode()))

    async def delete_sealed_value(self, ctx: AuthContext, command: DeleteSealedValue) -> Nothing:
        """Delete a stored value, if it is there: a retry does no harm."""
        place = self._place(ctx, command)
        async with self._database.transaction(ctx) as tx:
            await self._delete(tx, place)
        return Nothing()

    @property
    def ends(self) -> frozenset[type[Event]]:
        """The events after which `record_ended` deletes something."""
        return frozenset(purpose.ends for purpose in self._purposes.values() if purpose.ends is not None)

    async def record_ended(self, ctx: AuthContext, event: Event, event_id: UUID) -> None:
        """Delete the values of a record that ended."""
        purposes = [purpose for purpose in self._purposes.values() if purpose.ends is type(event)]
        async with self._database.transaction(ctx) as tx:
            if not await tx.claim(VAULT_EVENTS.name, event_id):
                return
            for purpose in purposes:
                await self._delete(tx, places.of_value(purpose, event.target_id))

    @staticmethod
    async def _delete(tx: Transaction, place: Place) -> None:
        if await repository.delete_sealed_value(tx, place):
            tx.publish(SealedValueDeleted(purpose=place.purpose, record=place.record))

    def _place(self, ctx: AuthContext, command: Placed) -> Place:
        """The place that a command names; Forbidden when the asking service did not declare the purpose."""
        purpose = self._purposes.get((ctx.issuer, command.purpose))
        if purpose is None:
            raise Forbidden(f"The purpose '{command.purpose}' is not the asking service's.")
        return places.of_value(purpose, command.record)
