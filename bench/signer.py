"""The row `signer`: how many logs are signed in a second, and how far checkpoints are behind their heads.

Audit's signer runs here, the vault in a process of its own. First 10 000 logs grow by an entry each, and all are
signed; that is timed. Then 1000 of them grow for a while, each about once a second. Some of these are read, as a stream
reads them: after each entry.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from bench.audit import Led, events
from bench.proof import BesideTheIntake
from bench.rows import servers
from bench.run import Effort, Measure, Row, median
from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWatch, LogWriter, SignedHead
from causeloop_audit.service import LogService, Readers, ReadLogs, Signer, Signing
from causeloop_audit.settings import AuditSettings
from causeloop_common import ids
from causeloop_common.application import settle_memory
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import ReadStream
from causeloop_common.database import Database, role_connections
from causeloop_common.leader import Leader
from causeloop_common.messaging import Bus

LOGS = 10_000
ENTRIES = 10
"""Of each log, before its growth is timed."""
ACTIVE = 1_000
READ = 5
STEPS = 20
"""So many times a second some of the active logs grow."""
GROW_SECONDS = 30.0
"""More than two of the signer's pauses."""
SECONDS = AuditSettings.model_fields["checkpoint_seconds"].default
RATE, READ_SECONDS = 400, 2.0
BATCH = 500


class House:
    """Audit's parts, and what was entered and is not signed."""

    def __init__(self, log: LogService, watch: LogWatch, signing: Signing, readers: Readers, leader: Leader) -> None:
        self._log = log
        self._signing = signing
        self._leader = leader
        self._reading = ReadLogs(readers, watch, signing)
        self._signer = Signer(leader, watch, signing, seconds=SECONDS)
        self._sizes: dict[str, int] = {}
        self._unsigned: dict[str, list[tuple[int, float]]] = {}
        self._longest: dict[str, float] = {}

    async def wait_for_vault(self) -> None:
        """Return when it signs."""
        log = ids.tenant_uuid(ids.new("ws"))
        async with asyncio.timeout(30):
            while not isinstance((await self._signing.sign([log]))[log], SignedHead):  # noqa: ASYNC110  a process
                await asyncio.sleep(0.1)

    async def grow(self, tenants: list[str], entries: int = 1) -> None:
        """Enter so many events in each of these logs."""
        for start in range(0, len(tenants), BATCH):
            part = tenants[start : start + BATCH]
            for _ in range(entries):
                await self._log.append(events(len(part), part))
            now = time.monotonic()
            for tenant in part:
                self._sizes[tenant] = self._sizes.get(tenant, 0) + entries
                self._unsigned.setdefault(tenant, []).append((self._sizes[tenant], now))

    async def sign_all(self) -> dict[str, Any]:
        """Have each log signed that moved, by a leader; how many in a second."""
        settle_memory()
        count, rate = len(self._unsigned), 0.0

        async def work() -> None:
            nonlocal rate
            began = time.perf_counter()
            await self._signer._round()
            rate = count / (time.perf_counter() - began)

        await self._leader.once(Led(work))
        self._unsigned.clear()
        return {"rate": rate}

    async def lag(self, inspector: asyncpg.Connection, active: list[str], read: list[str], seconds: float) -> None:
        """Let the active logs grow, the read ones be read, and all be signed."""
        working = [asyncio.create_task(work) for work in (self._leader.run(self._signer), self._reading.keep_signed())]
        began, looked_at = time.monotonic(), 0.0
        for step in range(max(1, round(seconds * STEPS))):
            await asyncio.sleep(max(0, began + step / STEPS - time.monotonic()))
            growing = random.sample(active, max(1, len(active) // STEPS))
            await self.grow(growing)
            for tenant in set(growing) & set(read):
                ctx = AuthContext(tenant=tenant, principal="svc_gateway", permissions=frozenset())
                await self._log.read_stream(ctx, ReadStream(start=max(0, self._sizes[tenant] - 1)))
            if time.monotonic() - looked_at > 0.2:
                looked_at = time.monotonic()
                await self._look(inspector, active)
        await self._look(inspector, active)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    def longest(self, tenants: list[str]) -> float:
        """The longest time in seconds for which an entry of these logs was not signed."""
        return max(self._longest.get(tenant, 0.0) for tenant in tenants)

    async def _look(self, inspector: asyncpg.Connection, tenants: list[str]) -> None:
        uuids: dict[UUID, str] = {ids.tenant_uuid(tenant): tenant for tenant in tenants}
        kept = "SELECT workspace_id, size FROM audit.checkpoints WHERE workspace_id = ANY ($1::uuid[])"
        sizes = {uuids[row["workspace_id"]]: row["size"] for row in await inspector.fetch(kept, list(uuids))}
        now = time.monotonic()
        for tenant in tenants:
            waiting = self._unsigned.get(tenant, [])
            if waiting:
                self._longest[tenant] = max(self._longest.get(tenant, 0.0), now - waiting[0][1])
            self._unsigned[tenant] = [one for one in waiting if one[0] > sizes.get(tenant, 0)]


def signer(effort: Effort) -> Row:
    """Logs signed in a second while all grow; the longest that an entry is unsigned, with and without a reader."""
    with servers() as house, _vault(house), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(house, effort))


async def _measure(house: dict[str, Any], effort: Effort) -> Row:
    tenants = [ids.new("ws") for _ in range(effort.of(LOGS))]
    active = tenants[: effort.of(ACTIVE)]
    read = active[:READ]
    inspector = await asyncpg.connect(house["superuser_url"], database="causeloop")
    async with _audit(house) as audit:
        await audit.wait_for_vault()
        await audit.grow(tenants, ENTRIES)
        await audit.sign_all()
        rounds = []
        for _ in range(effort.rounds):
            await audit.grow(tenants)
            rounds.append(await audit.sign_all())
        await audit.lag(inspector, active, read, GROW_SECONDS * effort.part)
        of_read, of_others = audit.longest(read), audit.longest(active[READ:] or read)
    await inspector.close()
    rate = median(rounds, "rate")
    return Row(
        ours=rate,
        reference=None,
        peer=None,
        unit="1/s",
        better="higher",
        bar=f">= {RATE}/s, <= {READ_SECONDS:g} s if read ({of_read:.1f}), <= {SECONDS:g} s else ({of_others:.1f})",
        holds=rate >= RATE and of_read <= READ_SECONDS and of_others <= SECONDS,
    )


@asynccontextmanager
async def _audit(house: dict[str, Any]) -> AsyncIterator[House]:
    """Audit's parts, connected."""
    settings = AuditSettings.load("audit", house["environ"]["audit"])
    writer, own = (role_connections(settings.dsn(role), role) for role in (WRITER, "causeloop_audit"))
    database = Database(settings.dsn("causeloop_audit"), "audit", metadata)
    bus = Bus(settings, settings.keyring())
    await database.start()
    await bus.connect()
    readers = Readers()
    log = LogService(database, LogWriter(BesideTheIntake(writer)), bytes(32), readers)
    try:
        yield House(log, LogWatch(writer), Signing(database, bus), readers, Leader(own, "audit", "signer"))
    finally:
        await bus.close()
        await database.stop()
        await writer.close(1)
        await own.close(1)


@contextmanager
def _vault(house: dict[str, Any]) -> Iterator[None]:
    environ = {**house["environ"]["vault"], "PATH": os.environ["PATH"]}
    with Path(os.devnull).open("w") as log:
        running = subprocess.Popen([sys.executable, "-m", "causeloop_cli", "serve", "vault"], env=environ, stdout=log)
        try:
            yield
        finally:
            running.terminate()
            running.wait(timeout=20)


ROWS: dict[str, Measure] = {"signer": signer}
