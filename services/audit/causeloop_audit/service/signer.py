"""The signer: keeps every log's checkpoint near its head, whether somebody asks for it or not.

An attacker who can write to the database can rewrite what nobody signed. So no head stays unsigned for longer than a
pause, even if no reader asks for it. A log that does not move is shown to the vault, too: once after each start, then
hourly. So one that lost its end, as in an older copy of the database, is found although nothing is entered in it.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from causeloop_audit.domain.restored import is_older_copy
from causeloop_audit.repository import LogWatch
from causeloop_audit.service.signing import AT_ONCE, Outcome, Signing
from causeloop_common import ids
from causeloop_common.errors import AppError, Conflict, Timeout, Unavailable
from causeloop_common.leader import FAULTS, Leader, Work
from causeloop_common.telemetry import metrics

_log = logging.getLogger(__name__)

_FOUND = 500
"""The logs that one look finds."""
_SIDE_BY_SIDE = 2
"""So many times `AT_ONCE` logs are signed at once: while the vault signs some, the proofs of others are made."""
_QUIET_SECONDS = 3600.0
"""From one look at all logs to the next."""
_PAUSE_SECONDS = 1.0
"""Between two times `AT_ONCE` logs that did not move: some hundredths of what a vault signs. That is 100 000 logs in 34
minutes."""
_PAUSE_PART = 0.75
"""Of the seconds for which a head may be unsigned. The rest is for the next round, which may have more to do."""
_NAMED = 5


class Signer(Work):
    """Has each head signed that moved. One signer is at work at a time, and waits while there is a fault."""

    def __init__(self, leader: Leader, watch: LogWatch, signing: Signing, *, seconds: float) -> None:
        self._leader = leader
        self._watch = watch
        self._signing = signing
        self._seconds = seconds
        self._after = ids.NIL
        self._alone: set[UUID] = set()
        """The logs with which others could not be signed: each is signed by itself, after all others."""
        self._quiet_after = ids.NIL
        """The last log that was looked at whether it moved or not; none before a look at all logs."""
        self._looked_at = float("-inf")
        self._quiet_at = float("-inf")
        self._led_at = 0.0

    async def lead(self) -> None:
        """Sign until cancelled. Until a log's turn comes again there are two rounds and a pause, which shrinks as they
        grow.
        """
        self._led_at = time.monotonic()
        self._quiet_at = float("-inf")
        try:
            while True:
                began = time.monotonic()
                await self._round()
                refused, _ = await self._watch.count_refused()
                metrics.LOGS_REFUSED.set(refused)
                self._leader.works()
                ended = time.monotonic()
                pause = min(_PAUSE_PART * self._seconds, self._seconds - 2 * (ended - began))
                await self._look_at_quiet(ended + max(pause, 0))
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

        After a fault the next round begins after the logs where this one ended, so that no log holds up the others.
        """
        while found := await self._watch.behind(self._after, _FOUND):
            together = [log for log in found if log not in self._alone]
            for part in _parts(together, _SIDE_BY_SIDE * AT_ONCE):
                self._after = part[-1]
                for ended in await asyncio.gather(*map(self._sign_part, _parts(part, AT_ONCE)), return_exceptions=True):
                    if ended is not None:
                        raise ended
            self._after = found[-1]
        self._after = ids.NIL
        await self._sign_alone()

    async def _sign_part(self, logs: Sequence[UUID]) -> None:
        """Sign these logs; where that is not possible, each by itself: one with a fault is from now on signed apart."""
        self._leader.require()
        try:
            outcomes: Mapping[UUID, Outcome] = await self._signing.sign(logs, fence=self._leader.fence)
        except FAULTS:
            for log in logs:
                try:
                    await self._sign([log])
                except FAULTS:
                    self._alone.add(log)
                    raise
        else:
            self._pass_over(outcomes)

    async def _sign_alone(self) -> None:
        """Sign those that are signed apart, and raise the first fault after the last of them."""
        fault: Exception | None = None
        for log in sorted(self._alone):
            try:
                await self._sign([log])
                self._alone.discard(log)
            except FAULTS as error:
                fault = fault or error
        if fault is not None:
            raise fault

    async def _look_at_quiet(self, until: float) -> None:
        """Show the vault some logs after the other, until it is time for the next round."""
        while True:
            now = time.monotonic()
            if now >= self._quiet_at and (logs := await self._next_quiet(now)):
                self._quiet_at = now + _PAUSE_SECONDS
                await self._sign(logs, anew=True)
            if (rest := until - time.monotonic()) <= 0:
                return
            await asyncio.sleep(min(rest, _PAUSE_SECONDS))

    async def _next_quiet(self, now: float) -> list[UUID]:
        """The next logs of a look that has begun; of another one if it is time, or since this lead began."""
        if self._quiet_after == ids.NIL:
            if self._looked_at >= self._led_at and now < self._looked_at + _QUIET_SECONDS:
                return []
            self._looked_at = now
        logs = await self._watch.logs(self._quiet_after, AT_ONCE)
        self._quiet_after = logs[-1] if logs else ids.NIL
        return logs

    async def _sign(self, logs: Sequence[UUID], *, anew: bool = False) -> None:
        """Sign some logs. A fault of one alone is logged and passed over; a fault that concerns all is raised."""
        self._leader.require()
        self._pass_over(await self._signing.sign(logs, anew=anew, fence=self._leader.fence))

    def _pass_over(self, outcomes: Mapping[UUID, Outcome]) -> None:
        """Log what is wrong with single logs, but for a refusal, which was logged; raise what concerns all."""
        for log, outcome in outcomes.items():
            if isinstance(outcome, Unavailable | Timeout):
                raise outcome
            if isinstance(outcome, AppError) and not isinstance(outcome, Conflict):
                _log.error("the log of %s could not be signed: %s", ids.tenant_id(log), outcome.detail)
        self._leader.works()


def _parts(logs: Sequence[UUID], size: int) -> list[Sequence[UUID]]:
    return [logs[start : start + size] for start in range(0, len(logs), size)]
