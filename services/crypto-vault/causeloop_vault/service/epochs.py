"""Epochs: a log that cannot continue what was signed of it begins anew, in the open.

Only an operator opens one, with `causeloop audit recover`: no message does, so no credential of the bus can. The name
of the log changes with its epoch, so that a verifier that pinned the earlier one refuses; the end of the earlier epoch
is kept, and stands in the event, which is entered in that very log.
"""

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import EpochOpened
from causeloop_common.database import Database
from causeloop_common.errors import Conflict
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.checkpoint import origin_of
from causeloop_log.tlog.merkle import TreeHead
from causeloop_vault import repository
from causeloop_vault.domain import witness
from causeloop_vault.domain.witness import Stale
from causeloop_vault.repository import Signed


class EpochService:
    """Open epochs of logs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_epoch(
        self, tenant: str, signed: Signed, head: TreeHead, proof: list[bytes], reason: str
    ) -> EpochOpened:
        """End the epoch of a log whose `head` does not continue what was `signed`, and open the next one.

        Conflict when the log does continue, by this consistency proof, or when more was signed of it meanwhile.
        """
        async with self._database.reading(_context(ids.INSTALLATION)) as tx:
            key = await repository.signing_key(tx)
        if key is None:
            raise Conflict("The vault has signed nothing yet. Nothing was done.")
        log = ids.tenant_uuid(tenant)
        async with self._database.transaction(_context(tenant)) as tx:
            if (await repository.lock_checkpoints(tx, [log]))[log] != signed:
                raise Conflict("The vault signed more of this log meanwhile. Nothing was done: look at it again.")
            if _continues(signed.head, head, proof):
                raise Conflict("The log continues what was signed of it, so it needs no other epoch. Nothing was done.")
            opened = EpochOpened(
                epoch=signed.epoch + 1,
                origin=origin_of(key.origin, tenant, signed.epoch + 1),
                ended_size=signed.head.size,
                ended_root=signed.head.root.hex(),
                reason=reason,
            )
            await repository.end_epoch(tx, signed, reason)
            tx.publish(opened)
        return opened


def _continues(signed: TreeHead, head: TreeHead, proof: list[bytes]) -> bool:
    try:
        witness.judge(signed, signed.size, head, proof)
    except (Stale, NotVerified):
        return False
    return True


def _context(tenant: str) -> AuthContext:
    return AuthContext(
        tenant=tenant, principal="svc_vault", permissions=frozenset(), issuer="vault", request_id=ids.new("req")
    )
