"""Sealing for other services: they store the ciphertext, the vault keeps the key."""

import os
from collections.abc import Callable, Iterable

from causeloop_common.context import AuthContext
from causeloop_common.contracts.purpose import Purpose
from causeloop_common.contracts.vault import Seal, SealedData
from causeloop_common.errors import Forbidden
from causeloop_vault.domain import envelope
from causeloop_vault.domain.places import Place
from causeloop_vault.service.keyrings import Keyring, Keyrings, with_keyring


class SealingService:
    """Seal, for the purposes that services declared."""

    def __init__(
        self,
        keyrings: Keyrings,
        purposes: Iterable[Purpose],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._keyrings = keyrings
        self._purposes = {(purpose.issuer, purpose.name): purpose for purpose in purposes}
        self._entropy = entropy

    @with_keyring
    async def seal(self, ctx: AuthContext, command: Seal, keyring: Keyring) -> SealedData:
        """Seal data of another service under the tenant's key, for a purpose of that service alone."""
        purpose = self._purpose(ctx, command.purpose)
        plaintext, entropy = command.plaintext.get_secret_value().encode(), self._entropy(envelope.ENTROPY_BYTES)
        return SealedData(ciphertext=keyring.seal(Place(str(purpose), command.record), plaintext, entropy))

    def _purpose(self, ctx: AuthContext, name: str) -> Purpose:
        """The purpose of this name that the asking service declared; Forbidden when it declared none."""
        purpose = self._purposes.get((ctx.issuer, name))
        if purpose is None:
            raise Forbidden(f"The purpose '{name}' is not the asking service's.")
        return purpose
