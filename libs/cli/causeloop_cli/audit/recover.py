"""`causeloop audit recover`: the logs that do not continue what the vault signed of them, as after a restore.

For each it prints how many entries it has and how many were signed, and whether it is *behind* (its events are still on
their way from the stream or the outboxes: wait) or *cannot continue*. The latter begins anew with --open-epoch, in the
open: the log's name changes, a verifier that pinned the old key refuses, and the log has an entry with the end of the
epoch before and the reason. Its entries stay where they are. No message opens an epoch, only this command does, with
the environment of the whole installation, else with that of the `causeloop dev` that runs in this folder.
"""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import nats.errors
from nats.js import JetStreamContext

from causeloop_audit.repository import LogWatch
from causeloop_audit.service import RecoveryService
from causeloop_audit.settings import AuditSettings
from causeloop_cli import operating, running_dev, services
from causeloop_cli.doctor import environments
from causeloop_common import ids
from causeloop_common.contracts.topology import AUDIT_INTAKE, OWNERS
from causeloop_common.database import Connections, Database, role_connections
from causeloop_common.errors import AppError, Conflict
from causeloop_common.leader import FAULTS
from causeloop_common.messaging import StreamEnds
from causeloop_common.settings import RoleSettings, Settings, SettingsError
from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.merkle import EMPTY, TreeHead
from causeloop_vault.repository import Signed, of_all_logs
from causeloop_vault.service import EpochService

_ALL = "All {} logs continue what was signed of them."
_SOME = "{} of {} logs do not continue what was signed of them."
_ENTERED_SECONDS = 10.0
_LOOK_SECONDS = 0.25
_WAITING = """
    SELECT DISTINCT workspace_id FROM {schema}.outbox
    WHERE confirmed_batch IS NULL AND occurred_at < now() - interval '30 seconds'
"""
_BEGUN = "SELECT term FROM {schema}.relay_state"
"""A relay that has never been at work has no row, and no event either."""


class Found(NamedTuple):
    """A log that does not continue what was signed of it, and why it may yet, if it may.

    One whose epoch `is_open` continues, but audit has not had it signed in that epoch.
    """

    tenant: str
    signed: Signed
    why: str
    waits_for: str | None = None
    is_open: bool = False

    def __str__(self) -> str:
        fate = f"behind: {self.waits_for}" if self.waits_for else "cannot continue"
        if self.is_open:
            fate = "if this stays, run --open-epoch again: it opens no other one"
        return f"{self.tenant}  epoch {self.signed.epoch}  {self.why}  {fate}"


def main(options: argparse.Namespace) -> int:
    """0 when every log continues, or the epoch is open; 1 when one does not, or needs no other epoch."""
    if options.open_epoch and not (options.workspace and options.reason):
        raise SettingsError("An epoch is opened of one log, for a reason: give --workspace ws_… and --reason TEXT.")
    environs, where = environments(os.environ, Path(running_dev.NAME))
    if missing := [name for name in OWNERS if name not in environs]:
        raise SettingsError(
            f"What the log, the vault and every outbox have is compared, and {missing[0]} is not in {where}. Run this "
            "with the settings of all services."
        )
    return operating.run(partial(_recover, options, environs))


async def _recover(
    options: argparse.Namespace, environs: Mapping[str, Mapping[str, str]], stream: JetStreamContext
) -> int:
    async with _opened(environs) as logs:
        found, count = await logs.look(stream, options.workspace)
        for one in found:
            print(one)
        if not options.open_epoch:
            print(_SOME.format(len(found), count) if found else _ALL.format(count))
            return 1 if found else 0
        if not found:
            print(f"The log of {options.workspace} continues what was signed of it, so it needs no other epoch.")
            return 1
        (log,) = found
        if log.waits_for:
            print("Nothing was done. Wait, then run this again.")
            return 1
        if log.is_open:
            await logs.begin_epoch(log)
            print(f"Epoch {log.signed.epoch} is open already, and audit has the log signed in it now.")
            return 0
        epoch = await logs.open_epoch(log, options.reason)
        print(f"Epoch {epoch} is open. The one before ended at {log.signed.head.size} entries, with the root")
        print(f"{log.signed.head.root.hex()}. The log has an entry about it.")
        print("Its key has another name now: `causeloop audit key` fetches it for those who verify.")
    return 0


class Logs:
    """Both sides of every log: what audit has, and what the vault signed."""

    def __init__(
        self, recovery: RecoveryService, epochs: EpochService, vault: Connections, relays: Mapping[str, Connections]
    ) -> None:
        self._recovery = recovery
        self._epochs = epochs
        self._vault = vault
        self._relays = relays

    async def look(self, stream: JetStreamContext, workspace: str | None) -> tuple[list[Found], int]:
        """The logs, or the one, that do not continue; and how many were looked at."""
        signed = await of_all_logs(self._vault)
        if workspace is not None:
            signed = {log: one for log, one in signed.items() if log == ids.tenant_uuid(workspace)}
        waiting = None if await _entered(stream, self._recovery) else "audit has not entered all of the stream again"
        heads = await self._recovery.heads()
        unsent: dict[UUID, str] | None = None
        found = []
        for log, (epoch, last) in sorted(signed.items()):
            head = heads.get(log, EMPTY)
            tenant, why = ids.tenant_id(log), None
            if head != last:
                head, _, why = await self._judged(tenant, last)
            if why is None:
                if epoch > 1 and await self._recovery.epoch(tenant) < epoch:
                    found.append(Found(tenant, Signed(epoch, last), "is not signed in it yet", is_open=True))
                continue
            waits = None
            if head.size < last.size:
                if unsent is None:
                    waiting = waiting or await self._unbegun()
                    unsent = await self._unsent()
                waits = waiting or unsent.get(log)
            found.append(Found(tenant, Signed(epoch, last), why, waits))
        return found, len(signed)

    async def open_epoch(self, log: Found, reason: str) -> int:
        """Open the next epoch of a log; its number. Conflict when the log, as it is now, does continue."""
        head, proof, _ = await self._judged(log.tenant, log.signed.head)
        opened = await self._epochs.open_epoch(log.tenant, log.signed, head, proof, reason)
        await self._recovery.begin_epoch(log.tenant, opened.epoch)
        return opened.epoch

    async def begin_epoch(self, log: Found) -> None:
        """Begin an epoch that the vault opened, after this command or a signer of audit's came in between."""
        await self._recovery.begin_epoch(log.tenant, log.signed.epoch)

    async def _judged(self, tenant: str, signed: TreeHead) -> tuple[TreeHead, list[bytes], str | None]:
        """A log's head and its proof from what was signed, and why it does not continue that, if it does not."""
        try:
            head, proof = await self._recovery.growth(tenant, signed.size)
        except Conflict:
            return EMPTY, [], "entries or nodes of it are missing"
        if head.size < signed.size:
            return head, proof, f"{head.size} entries here, {signed.size} signed"
        try:
            merkle.verify_consistency(signed.size, signed.root, head.size, head.root, proof)
        except NotVerified:
            return head, proof, f"{head.size} entries here, other than the {signed.size} signed"
        return head, proof, None

    async def _unbegun(self) -> str | None:
        """The relay, if any, that has not begun the log's last term: it may have to take back confirmations of what
        went with a restore, and until then these look as if the log had them.
        """
        term = await self._recovery.term()
        for schema, connections in self._relays.items():
            async with connections.borrowed() as connection:
                begun = [row["term"] for row in await connection.fetch(_BEGUN.format(schema=schema))]
            if any(one != term for one in begun):
                return f"the relay of {schema} has not compared its outbox with the log since audit's last start"
        return None

    async def _unsent(self) -> dict[UUID, str]:
        """The tenants of whose events an outbox has some that the log has not receipted, with that reason."""
        tenants = {}
        for schema, connections in self._relays.items():
            async with connections.borrowed() as connection:
                for row in await connection.fetch(_WAITING.format(schema=schema)):
                    tenants[row["workspace_id"]] = f"the outbox of {schema} still has events of it"
        return tenants


async def _entered(stream: JetStreamContext, recovery: RecoveryService) -> bool:
    """Whether the logs have, within some seconds, all that was in the stream when this began.

    After a restore the stream is entered again: until an intake has begun with that, the consumer has had everything.
    """
    last, until = None, time.monotonic() + _ENTERED_SECONDS
    while time.monotonic() < until:
        events = await stream.stream_info(AUDIT_INTAKE.stream)
        ends = StreamEnds.of(events)
        last = ends.last if last is None else last
        consumer = await stream.consumer_info(AUDIT_INTAKE.stream, AUDIT_INTAKE.name)
        floor = consumer.ack_floor.stream_seq if consumer.ack_floor is not None else 0
        is_idle = not consumer.num_pending and not consumer.num_ack_pending
        if (is_idle or floor >= last) and await recovery.is_entered(ends, floor):
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False


@asynccontextmanager
async def _opened(environs: Mapping[str, Mapping[str, str]]) -> AsyncIterator[Logs]:
    """The logs, over connections of each service's own roles. SettingsError when a database does not let one in."""
    of: dict[str, Settings] = {name: RoleSettings.load(name, environs[name]) for name in OWNERS}
    of["audit"] = AuditSettings.load("audit", environs["audit"])  # it has the writer's address
    async with AsyncExitStack() as stack:
        try:
            audit, vault = [await _database(stack, of, name) for name in ("audit", "vault")]
            writer, jobs = [_connections(stack, of, *role) for role in (("audit", "writer"), ("vault", "jobs"))]
            relays = {name: _connections(stack, of, name, "relay") for name in of}
            yield Logs(RecoveryService(audit, LogWatch(writer)), EpochService(vault), jobs, relays)
        except (nats.errors.Error, AppError):
            raise  # each has a sentence of its own
        except FAULTS as error:
            raise SettingsError(f"A database does not answer or let a role in: {type(error).__name__}.") from error


async def _database(stack: AsyncExitStack, of: Mapping[str, Settings], name: str) -> Database:
    made = Database(of[name].dsn(f"causeloop_{name}"), name, services.tables(name), workers=1)
    stack.push_async_callback(made.stop)
    await made.start()
    return made


def _connections(stack: AsyncExitStack, of: Mapping[str, Settings], name: str, role: str) -> Connections:
    made = role_connections(of[name].dsn(f"causeloop_{name}_{role}"), f"causeloop_{name}_{role}")
    stack.push_async_callback(made.close, 1)
    return made
