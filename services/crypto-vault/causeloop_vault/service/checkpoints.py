"""Checkpoints: the installation's signing key, and the witness that signs a log only while it grows."""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import (
    AuditKey,
    GetAuditKey,
    GrownLog,
    SignCheckpoints,
    SignedCheckpoints,
    SigningKeyCreated,
    WitnessedLog,
)
from causeloop_common.database import Database
from causeloop_common.errors import Forbidden, InvalidInput, Unavailable
from causeloop_common.settings import SettingsError
from causeloop_common.telemetry import metrics
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.checkpoint import Checkpoint, origin_of
from causeloop_log.tlog.merkle import TreeHead
from causeloop_log.tlog.note import VerifierKey
from causeloop_vault import repository
from causeloop_vault.domain import envelope, places, witness
from causeloop_vault.domain.witness import Stale
from causeloop_vault.repository import Signed, StoredSigningKey
from causeloop_vault.service.keyrings import Keyring, Keyrings, on_its_own_account

_log = logging.getLogger(__name__)

_SEED_BYTES = 32
_IN_A_ROW = 8
"""After so many signatures, at some 100 µs each, other commands have their turn."""
_REFUSED = 10_000
"""So many refused logs are remembered, each of which is an alarm once."""


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
        self._refused: dict[str, Signed] = {}
        """By tenant, the head that the log does not continue, and of which that was logged."""

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

    async def sign_checkpoints(self, ctx: AuthContext, command: SignCheckpoints) -> SignedCheckpoints:
        """Sign the heads of logs, of each that begins with the one signed before. The heads are committed before a
        signature leaves, so that no crash and no race can make two histories of one log.
        """
        key = self._opened_key()
        if ctx.tenant != ids.INSTALLATION:
            raise Forbidden("Logs are signed on the installation's account, not on that of one tenant.")
        asked = {ids.tenant_uuid(log.tenant): log for log in command.logs}
        if len(asked) < len(command.logs):
            raise InvalidInput.of(logs="names a log twice")
        async with self._database.transaction(ctx) as tx:
            signed = await repository.lock_checkpoints(tx, list(asked))
            judged = {log: self._judged(signed[log], grown) for log, grown in asked.items()}
            moved = {log: one for log, one in judged.items() if isinstance(one, TreeHead) and one != signed[log].head}
            if moved:
                await repository.move_checkpoints(tx, moved)
        answers = []
        for log, grown in asked.items():
            answers.append(self._answer(key, grown.tenant, signed[log], judged[log]))
            if len(answers) % _IN_A_ROW == 0:
                await asyncio.sleep(0)
        return SignedCheckpoints(logs=answers)

    async def get_audit_key(self, ctx: AuthContext, command: GetAuditKey) -> AuditKey:
        """The key that verifies the checkpoints of the tenant's log in its epoch; named like the log."""
        key = self._opened_key()
        async with self._database.reading(ctx) as tx:
            epoch, _ = await repository.checkpoint(tx)
        origin = origin_of(key.origin, ctx.tenant, epoch)
        verifier = VerifierKey(origin, key.private.public_key().public_bytes_raw())
        return AuditKey(epoch=epoch, origin=origin, key=str(verifier), created_at=key.created_at)

    def _judged(self, signed: Signed, log: GrownLog) -> TreeHead | Stale | NotVerified:
        """The head, which may be signed, or why it may not."""
        head = TreeHead(log.size, bytes.fromhex(log.root))
        try:
            witness.judge(signed.head, log.old_size, head, [bytes.fromhex(sibling) for sibling in log.proof])
        except (Stale, NotVerified) as reason:
            return reason
        return head

    def _answer(
        self, key: SigningKey, tenant: str, signed: Signed, judged: TreeHead | Stale | NotVerified
    ) -> WitnessedLog:
        """The answer for one log, signed if it may be. A log is refused with an alarm, which is logged once."""
        epoch, last = signed
        if isinstance(judged, Stale):
            return WitnessedLog(epoch=epoch, signed_size=judged.size)
        if isinstance(judged, NotVerified):
            metrics.CHECKPOINTS.labels("refused").inc()
            if self._refused.get(tenant) != signed:
                if len(self._refused) >= _REFUSED:
                    self._refused.clear()
                self._refused[tenant] = signed
                _log.critical("a checkpoint of %s was refused: %s", tenant, judged)
            return WitnessedLog(epoch=epoch, signed_size=last.size, refused=str(judged))
        self._refused.pop(tenant, None)
        metrics.CHECKPOINTS.labels("signed").inc()
        checkpoint = Checkpoint(origin_of(key.origin, tenant, epoch), judged.size, judged.root)
        return WitnessedLog(epoch=epoch, signed_size=judged.size, checkpoint=checkpoint.sign(key.private))

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
