"""Readers: a log that somebody reads here has its checkpoint near its head, before all others.

A reader should not have to trust entries for long that nobody signed. Every replica has the logs signed that are read
at it, whether it leads the signer or not: signing twice does no harm.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from causeloop_audit.repository import LogWatch
from causeloop_audit.service.signing import AT_ONCE, Signing
from causeloop_common import ids
from causeloop_common.leader import FAULTS

LOOK_SECONDS = 0.5
"""From one look whether these logs moved to the next."""
_READ_SECONDS = 10.0
"""So long after it was read a log has a reader."""
_MOST = 10_000
"""So many logs are remembered. Any other one is signed in its turn, with all that moved."""


class Readers:
    """The logs that somebody reads at this replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read: dict[str, float] = {}

    def note(self, tenant: str) -> None:
        """Note that somebody reads the tenant's log."""
        if tenant in self._read or len(self._read) < _MOST:
            self._read[tenant] = self._clock()

    def logs(self) -> list[UUID]:
        """The logs that were read of late; the others are forgotten."""
        late = self._clock() - _READ_SECONDS
        self._read = {tenant: read for tenant, read in self._read.items() if read > late}
        return [ids.tenant_uuid(tenant) for tenant in self._read]


class ReadLogs:
    """Has the logs with readers signed."""

    def __init__(self, readers: Readers, watch: LogWatch, signing: Signing) -> None:
        self._readers = readers
        self._watch = watch
        self._signing = signing

    async def keep_signed(self) -> None:
        """Sign until cancelled. The signer reports faults: here the next look is the next try."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(*FAULTS):
                await self.sign()

    async def sign(self) -> None:
        """Sign those that moved, once."""
        read = self._readers.logs()
        behind = await self._watch.behind_of(read) if read else []
        for start in range(0, len(behind), AT_ONCE):
            await self._signing.sign(behind[start : start + AT_ONCE])
