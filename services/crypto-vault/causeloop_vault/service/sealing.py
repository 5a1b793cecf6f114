"""Sealing for other services: they store the ciphertext, the vault keeps the key."""

import os
from collections.abc import Callable

from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import Seal, SealedData
from causeloop_common.database import Database
from causeloop_common.errors import Forbidden
from causeloop_vault.domain import envelope
from causeloop_vault.service.keyrings import Keyrings

_PURPOSES = {"auth": {"session"}}
"""The purposes for which each issuer can have data sealed."""


class SealingService:
    """Seal."""

    def __init__(self, database: Database, keyrings: Keyrings, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._database = database
        self._keyrings = keyrings
        self._entropy = entropy

    async def seal(self, ctx: AuthContext, command: Seal) -> SealedData:
        """Seal data of another service under the tenant's key, for a purpose of that service alone."""
        if command.purpose not in _PURPOSES.get(ctx.issuer, ()):
            raise Forbidden(f"The purpose '{command.purpose}' is not the asking service's.")
        async with self._database.transaction(ctx) as tx:
            keyring = await self._keyrings.keyring(tx)
        plaintext, entropy = command.plaintext.get_secret_value().encode(), self._entropy(envelope.ENTROPY_BYTES)
        sealed = keyring.seal(f"{ctx.issuer}/{command.purpose}", command.record_id, plaintext, entropy)
        return SealedData(ciphertext=sealed)
