"""Secrets: versioned values that leave only by reveal."""

import os
from collections.abc import Callable

from causeloop_common.context import AuthContext
from causeloop_common.contracts.lists import page
from causeloop_common.contracts.vault import (
    GetSecret,
    ListSecrets,
    PutSecret,
    RevealedSecret,
    RevealSecret,
    SecretPage,
    SecretRevealed,
    SecretView,
    SecretWritten,
)
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, NotFound
from causeloop_vault import repository
from causeloop_vault.domain import envelope, places
from causeloop_vault.service.keyrings import Keyring, Keyrings, StaleKeyring, with_keyring


class SecretService:
    """Put, get, list and reveal secrets."""

    def __init__(self, database: Database, keyrings: Keyrings, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._database = database
        self._keyrings = keyrings
        self._entropy = entropy

    @with_keyring
    async def put_secret(self, ctx: AuthContext, command: PutSecret, keyring: Keyring) -> SecretView:
        """Write a new version of a secret, made on first use, sealed for its place."""
        async with self._database.transaction(ctx, command) as tx:
            secret = await repository.write_secret(tx, command.path, command.version)
            if secret is None:
                raise Conflict("The secret's version is not the one you named. Read it again and decide.")

            value, entropy = command.value.get_secret_value().encode(), self._entropy(envelope.ENTROPY_BYTES)
            sealed = keyring.seal(places.of_secret(secret.path, secret.version), value, entropy)
            repository.add_version(tx, secret, sealed, ctx.principal, keyring.version, StaleKeyring())

            tx.publish(SecretWritten(secret_id=secret.id, version=secret.version))
            return tx.answer(secret)

    async def get_secret(self, ctx: AuthContext, command: GetSecret) -> SecretView:
        """A secret without its value."""
        async with self._database.reading(ctx) as tx:
            secret = await repository.secret(tx, command.path)
        if secret is None:
            raise _no_secret(command.path)
        return secret

    async def list_secrets(self, ctx: AuthContext, command: ListSecrets) -> SecretPage:
        """Secrets without their values, by path."""
        async with self._database.reading(ctx) as tx:
            found = await repository.secrets_after(tx, command.position or "", command.wanted)
        return page(found, command, key=lambda secret: secret.path)

    @with_keyring
    async def reveal_secret(self, ctx: AuthContext, command: RevealSecret, keyring: Keyring) -> RevealedSecret:
        """A secret's value. That it was shown is committed before it leaves."""
        async with self._database.transaction(ctx) as tx:
            found = await repository.sealed_secret(tx, command.path, command.version)
            if found is None:
                raise _no_secret(command.path)

            value = keyring.open_(places.of_secret(found.path, found.version), found.sealed)

            tx.publish(SecretRevealed(secret_id=found.id, version=found.version))
        return RevealedSecret.of(found, value=value.decode())


def _no_secret(path: str) -> NotFound:
    return NotFound(f"There is no secret '{path}' in this workspace, or not that version of it.")
