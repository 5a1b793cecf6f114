"""The signer: keeps every log's checkpoint near its head, whether somebody asks for it or not.

An attacker who can write to the database can rewrite what nobody signed. So no head stays unsigned for longer than a
pause, even if no reader asks for it. A log that does not move is shown to the vault, too: once after each start, then
hourly. So one that lost its end, as in an older copy of the database, is found although nothing is entered in it.
"""

import asyncio
import logging
import time
from collections import deque
from uuid import UUID

from causeloop_audit.domain.restored import is_older_copy
from causeloop_audit.repository import LogWatch
from causeloop_audit.service.checkpoints import CheckpointService
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.errors import AppError, Conflict, Timeout, Unavailable
from causeloop_common.leader import Leader, Work
from causeloop_common.telemetry import metrics

_log = logging.getLogger(__name__)

_AT_ONCE = 500
_QUIET_SECONDS = 3600.0
"""From one look at all logs to the next."""
_PAUSE_SECONDS = 0.02
"""Between two logs that did not move: at most 50 a second, some hundredths of what a vault signs. That is 100 000 logs
in 34 minutes."""
_NAMED = 5


class Signer(Work):
    """Has each head signed that moved. One signer is at work at a time, and waits while there is a fault."""

    def __init__(self, leader: Leader, watch: LogWatch, checkpoints: CheckpointService, *, seconds: float) -> None:
        self._leader = leader
        self._watch = watch
        self._checkpoints = checkpoints
        self._seconds = seconds
        self._after = ids.NIL
        self._quiet: deque[UUID] = deque()
        """The logs that are looked at next, whether they moved or not."""
        self._quiet_after = ids.NIL
        """The last of them; none before a look at all logs."""
        self._looked_at = float("-inf")
        self._led_at = 0.0

    async def lead(self) -> None:
        """Sign until cancelled."""
        self._led_at = time.monotonic()
        try:
            while True:
                await self._round()
                refused, _ = await self._watch.count_refused()
                metrics.LOGS_REFUSED.set(refused)
                self._leader.works()
                await self._look_at_quiet(time.monotonic() + self._seconds)
        finally:
            metrics.LOGS_REFUSED.set(0)

    async def check(self) -> None:
        """Readiness: raise Unavailable while so many logs have lost their end that an older copy must be here."""
        _, short = await self._watch.count_refused()
        if short and is_older_copy(short, logs := await self._watch.count()):
            raise Unavailable(
                f"{short} of {logs} logs have fewer entries than the vault signed: audit's database is an older copy. "
                "Their entries are entered again from the stream and the outboxes, as far as these have them."
            )

    async def examine(self) -> None:
        """For `causeloop doctor`: raise Unavailable while a log does not continue what the vault signed of it."""
        refused, _ = await self._watch.count_refused()
        if refused:
            more = f" and {refused - _NAMED} more" if refused > _NAMED else ""
            named = ", ".join([ids.tenant_id(log) for log in await self._watch.refused(_NAMED)])
            raise Unavailable(
                f"{named}{more}: the log does not continue what the vault signed of it. Run `causeloop audit recover`."
            )

    async def _round(self) -> None:
        """Sign every log that moved, once. A log that does not continue what was signed of it delays no other.

        After a fault the next round begins after the log where this one ended, so that no log holds up the others.
        """
        while found := await self._watch.behind(self._after, _AT_ONCE):
            for self._after in found:
                await self._sign(ids.tenant_id(self._after))
                self._leader.works()
        self._after = ids.NIL

    async def _look_at_quiet(self, until: float) -> None:
        """Show the vault one log after the other, until it is time for the next round."""
        while (rest := until - time.monotonic()) > 0:
            if not self._quiet:
                await self._take_more()
            if not self._quiet:
                await asyncio.sleep(rest)
                return
            await self._sign(ids.tenant_id(self._quiet.popleft()), anew=True)
            self._leader.works()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _take_more(self) -> None:
        """The next logs of a look that has begun; of another one if it is time, or since this lead began."""
        now = time.monotonic()
        if self._quiet_after == ids.NIL:
            if self._looked_at >= self._led_at and now < self._looked_at + _QUIET_SECONDS:
                return
            self._looked_at = now
        self._quiet.extend(await self._watch.logs(self._quiet_after, _AT_ONCE))
        self._quiet_after = self._quiet[-1] if self._quiet else ids.NIL

    async def _sign(self, tenant: str, *, anew: bool = False) -> None:
        """Sign one log. A fault of this log alone is logged and passed over; a fault that concerns all is raised."""
        try:
            self._leader.require()
            await self._checkpoints.sign(_context(tenant), anew=anew, fence=self._leader.fence)
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
