"""Checkpoints: the installation's signing key, and the witness that signs a log only while it grows."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import (
    AuditKey,
    GetAuditKey,
    SignCheckpoint,
    SignedCheckpoint,
    SigningKeyCreated,
)
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, Unavailable
from causeloop_common.settings import SettingsError
from causeloop_common.telemetry import metrics
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.checkpoint import Checkpoint, origin_of
from causeloop_log.tlog.note import VerifierKey
from causeloop_vault import repository
from causeloop_vault.domain import envelope, places, witness
from causeloop_vault.domain.witness import Head, Stale
from causeloop_vault.repository import StoredSigningKey
from causeloop_vault.service.keyrings import Keyring, Keyrings, on_its_own_account

_log = logging.getLogger(__name__)

_SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that signs every tenant's checkpoints. Lives in this process's memory alone."""

    origin: str
    private: Ed25519PrivateKey = field(repr=False)
    created_at: datetime


class CheckpointService:
    """Sign checkpoints, and give out the key that verifies them."""

    def __init__(
        self,
        database: Database,
        keyrings: Keyrings,
        origin: str,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database = database
        self._keyrings = keyrings
        self._origin = origin
        self._entropy = entropy
        self._key: SigningKey | None = None

    async def open_signing_key(self) -> None:
        """Before serving: open the signing key, made at the first start, once, also when many race for it.

        SettingsError when the installation's logs began under another origin: a second name would be a second log.
        """
        ctx = on_its_own_account("signing-key")
        self._key = await self._keyrings.use(ctx, partial(self._open, ctx))

    async def _open(self, ctx: AuthContext, keyring: Keyring) -> SigningKey:
        async with self._database.transaction(ctx) as tx:
            stored = await repository.signing_key(tx)
            if stored is None:
                seed = self._entropy(_SEED_BYTES)
                public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
                sealed = keyring.seal(places.of_signing_key(self._origin), seed, self._entropy(envelope.ENTROPY_BYTES))
                if await repository.add_signing_key(tx, public, sealed, self._origin):
                    tx.publish(SigningKeyCreated(public_key=public.hex(), origin=self._origin))
                stored = await repository.signing_key(tx)
            assert stored is not None  # noqa: S101  added here, or by a faster replica
        return _opened(stored, keyring.open_(places.of_signing_key(stored.origin), stored.sealed), self._origin)

    async def sign_checkpoint(self, ctx: AuthContext, command: SignCheckpoint) -> SignedCheckpoint:
        """Sign the head of the tenant's log, if it begins with the one signed before. The head is committed before the
        signature leaves, so that no crash and no race can make two histories of one log.
        """
        key, head = self._opened_key(), Head(command.size, bytes.fromhex(command.root))
        async with self._database.transaction(ctx) as tx:
            epoch, signed = await repository.lock_checkpoint(tx)
            self._judge(ctx, signed, command, head)
            if head != signed:
                await repository.move_checkpoint(tx, head)
        checkpoint = Checkpoint(origin_of(key.origin, ctx.tenant, epoch), head.size, head.root)
        metrics.CHECKPOINTS.labels("signed").inc()
        return SignedCheckpoint(epoch=epoch, checkpoint=checkpoint.sign(key.private))

    async def get_audit_key(self, ctx: AuthContext, command: GetAuditKey) -> AuditKey:
        """The key that verifies the checkpoints of the tenant's log in its epoch; named like the log."""
        key = self._opened_key()
        async with self._database.transaction(ctx) as tx:
            epoch, _ = await repository.checkpoint(tx)
        origin = origin_of(key.origin, ctx.tenant, epoch)
        verifier = VerifierKey(origin, key.private.public_key().public_bytes_raw())
        return AuditKey(epoch=epoch, origin=origin, key=str(verifier), created_at=key.created_at)

    def _judge(self, ctx: AuthContext, signed: Head, command: SignCheckpoint, head: Head) -> None:
        try:
            witness.judge(signed, command.old_size, head, [bytes.fromhex(sibling) for sibling in command.proof])
        except Stale as stale:
            raise Conflict(
                f"The last checkpoint signed of this log has size {stale.size}. Read the log again, and prove from it.",
                fields={"old_size": [str(stale.size)]},
            ) from stale
        except NotVerified as error:
            metrics.CHECKPOINTS.labels("refused").inc()
            _log.critical("a checkpoint of %s was refused: %s", ctx.tenant, error)
            raise Conflict(
                f"The log does not continue what was signed of it: {error}.", fields={"size": [str(signed.size)]}
            ) from error

    def _opened_key(self) -> SigningKey:
        if self._key is None:
            raise Unavailable("The vault has not opened its signing key yet. Try again.")
        return self._key


def _opened(stored: StoredSigningKey, seed: bytes, origin: str) -> SigningKey:
    if stored.origin != origin:
        raise SettingsError(
            f"CAUSELOOP_ORIGIN is {origin}, but the logs of this installation began as {stored.origin}, and their name "
            f"cannot change: set it to {stored.origin}."
        )
    return SigningKey(stored.origin, Ed25519PrivateKey.from_private_bytes(seed), stored.created_at)
