"""Re-encryption: everything that a tenant has sealed in the vault, sealed anew under the primary data key, in steps.

A walk begins after a rotation. First it waits until every transaction that had written by then has ended: each of them
checked, after its first write, that it sealed under the primary key, so those that come later seal under the new one.
Then each step opens a batch and seals what is under an older key, in one transaction, which is the caller's.
"""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from causeloop_common.contracts.vault import KeyringReencrypted
from causeloop_common.database import Transaction
from causeloop_common.errors import Internal
from causeloop_vault import repository
from causeloop_vault.domain import envelope
from causeloop_vault.repository import Sealed
from causeloop_vault.service.keyrings import Keyring, StaleKeyring

_log = logging.getLogger(__name__)

WAIT_SECONDS = 0.1
"""Until a walk looks again whether the writers that a rotation met have ended."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The work of a step: how many rows it saw, and how many of these are under the primary key now. The next step
    begins at `cursor`, None at the end, `wait` seconds later.
    """

    cursor: str | None
    seen: int = 0
    done: int = 0
    wait: float = 0.0


class Reencryption:
    """The steps of a walk. Each needs the tenant's keyring, which is there before the step's transaction."""

    def __init__(self, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._entropy = entropy

    async def total(self, tx: Transaction) -> int:
        """How many rows a walk sees, as of now."""
        return await repository.count_sealed(tx)

    async def step(self, tx: Transaction, keyring: Keyring, cursor: str | None) -> Batch:
        """Walk on from a cursor, None at the beginning; announces what was sealed anew. StaleKeyring when the keyring's
        primary key is the tenant's no longer: roll back.

        A ciphertext that does not open stays as it is, and is logged: it could not be read before either.
        """
        if cursor is None:
            return Batch(json.dumps(["after", await repository.next_writer(tx)]))
        if writers := _writers(cursor):
            if not await repository.have_ended(tx, writers):
                return Batch(cursor, wait=WAIT_SECONDS)
            at = repository.START
        else:
            at = _read(cursor)

        found, behind = await repository.walk(tx, at)
        older = [row for row in found if not _is_under(keyring.version, row.sealed)]
        opened = _opened(keyring, older)
        count = await repository.reseal(tx, at, self._sealed_anew(keyring, opened))
        if not await repository.is_primary(tx, keyring.version):
            raise StaleKeyring
        if unopened := len(older) - len(opened):
            _log.error("%d stored ciphertexts of %s do not open and stay as they are", unopened, keyring.tenant)
        if count:
            tx.publish(KeyringReencrypted(keyring=keyring.tenant, version=keyring.version, count=count))
        return Batch(None if behind is None else json.dumps(behind), len(found), len(found) - unopened)

    def _sealed_anew(self, keyring: Keyring, opened: list[tuple[Sealed, bytes]]) -> list[tuple[Sealed, str]]:
        if not opened:
            return []
        entropy = self._entropy(envelope.entropy_bytes(len(opened)))
        sealed = keyring.seal_all([(row.place, plaintext) for row, plaintext in opened], entropy)
        return [(row, text) for (row, _), text in zip(opened, sealed, strict=True)]


def _is_under(version: int, sealed: str) -> bool:
    try:
        return envelope.version_of(sealed) == version
    except envelope.NotOpened:
        return False


def _opened(keyring: Keyring, rows: list[Sealed]) -> list[tuple[Sealed, bytes]]:
    """The rows that open, each with its plaintext."""
    opened = []
    for row in rows:
        with suppress(Internal, StaleKeyring):
            opened.append((row, keyring.open_(row.place, row.sealed)))
    return opened


def _writers(cursor: str) -> int | None:
    kind, number = json.loads(cursor)
    return number if kind == "after" else None


def _read(cursor: str) -> repository.Cursor:
    number, key = json.loads(cursor)
    return number, tuple(key)
