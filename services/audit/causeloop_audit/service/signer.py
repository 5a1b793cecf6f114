"""The signer: keeps every log's checkpoint near its head, whether somebody asks for it or not.

An attacker who can write to the database can rewrite what nobody signed. So no head stays unsigned for longer than a
pause, even if no reader asks for it.
"""

import asyncio
import logging

from causeloop_audit.repository import LogWatch
from causeloop_audit.service.checkpoints import CheckpointService
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.errors import AppError, Conflict, Timeout, Unavailable
from causeloop_common.leader import Leader, Work

_log = logging.getLogger(__name__)

_AT_ONCE = 500


class Signer(Work):
    """Has each head signed that moved. One signer is at work at a time, and waits while there is a fault."""

    def __init__(self, leader: Leader, watch: LogWatch, checkpoints: CheckpointService, *, seconds: float) -> None:
        self._leader = leader
        self._watch = watch
        self._checkpoints = checkpoints
        self._seconds = seconds
        self._after = ids.NIL

    async def lead(self) -> None:
        """Sign until cancelled."""
        while True:
            await self._round()
            self._leader.works()
            await asyncio.sleep(self._seconds)

    async def _round(self) -> None:
        """Sign every log that moved, once. A log that does not continue what was signed of it delays no other.

        After a fault the next round begins after the log where this one ended, so that no log holds up the others.
        """
        while found := await self._watch.behind(self._after, _AT_ONCE):
            for self._after in found:
                await self._sign(ids.tenant_id(self._after))
                self._leader.works()
        self._after = ids.NIL

    async def _sign(self, tenant: str) -> None:
        """Sign one log. A fault of this log alone is logged and passed over; a fault that concerns all is raised."""
        try:
            self._leader.require()
            await self._checkpoints.sign(_context(tenant), fence=self._leader.fence)
        except Conflict:
            pass  # logged where it was found
        except (Unavailable, Timeout):
            raise
        except AppError as error:
            _log.error("the log of %s could not be signed: %s", tenant, error.detail)


def _context(tenant: str) -> AuthContext:
    return AuthContext(
        tenant=tenant,
        principal="svc_audit",
        permissions=frozenset(),
        issuer="audit",
        request_id=ids.new("req"),
    )
