"""What has to be true in the end: each act that was answered 200 has one entry, and so has each committed event."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.audit import GetCheckpoint
from causeloop_common.contracts.vault import GetAuditKey
from causeloop_common.errors import AppError
from causeloop_common.messaging import Bus
from causeloop_common.permissions import Permission
from causeloop_log.verification import Refused, Verification
from chaos.receipts.acts import Act
from tests.support.bus import asking
from tests.support.log import stored_log
from tests.support.stack import Stack

_ENTRIES = "SELECT workspace_id, action, target FROM audit.entries WHERE action NOT LIKE 'gateway.%'"
_COMMITTED = " UNION ALL ".join(f"SELECT workspace_id, event_id, type FROM {name}.outbox" for name in topology.OWNERS)
_COUNTED = f"""
    SELECT count(*) FILTER (WHERE there = 0) AS missing, count(*) FILTER (WHERE there > 1) AS doubled FROM (
        SELECT count(e.event_id) AS there FROM ({_COMMITTED}) o
        LEFT JOIN audit.entries e ON (e.workspace_id, e.event_id, e.action) = (o.workspace_id, o.event_id, o.type)
        GROUP BY o.workspace_id, o.event_id, o.type) counted
"""


@dataclass
class Found:
    """What the logs have of the acts, and of all committed events."""

    lost: list[Act] = field(default_factory=list)
    doubled: list[Act] = field(default_factory=list)
    events_missing: int = 0
    events_doubled: int = 0
    seconds: float = 0.0
    """How long it took after the last act until nothing was missing any more, or was given up."""

    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.lost and not self.events_missing


async def entered(stack: Stack, acts: list[Act], patience: float) -> Found:
    """Wait until everything is entered, at most `patience` seconds."""
    begun = time.monotonic()
    async with stack.sql() as sql:
        while True:
            found = await _look(sql, acts)
            found.seconds = time.monotonic() - begun
            if found.is_whole() or found.seconds > patience:
                return found
            await asyncio.sleep(1)


async def _look(sql: Any, acts: list[Act]) -> Found:
    rows = await sql.fetch(_ENTRIES)
    there = Counter((row["workspace_id"], row["action"], row["target"]) for row in rows)
    counts = {act: there[ids.tenant_uuid(act.tenant), act.action, act.target] for act in acts}
    (events,) = await sql.fetch(_COUNTED)
    return Found(
        [act for act, count in counts.items() if count == 0],
        [act for act, count in counts.items() if count > 1],
        events["missing"],
        events["doubled"],
    )


@dataclass
class Heads:
    """The signed heads of all logs at one moment, as somebody outside keeps them."""

    signed: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    """Why logs do not continue."""

    @classmethod
    async def keep(cls, stack: Stack, tenants: list[str]) -> "Heads":
        """Fetch the newest head of each log."""
        kept = cls()
        async with stack.bus_of("gateway") as bus:  # which may ask in every tenant, realms too
            for tenant in tenants:
                try:
                    ctx = asking(tenant, "svc_judge", Permission.AUDIT_READ)
                    kept.signed[tenant] = (await bus.call(ctx, GetCheckpoint())).checkpoint
                except AppError:
                    continue  # a log without entries yet, or a wire that was cut
        return kept

    async def compare(self, stack: Stack) -> Counter[str]:
        """How many logs `continued` what was kept of them, and how many are `broken`."""
        outcomes = Counter[str]()
        async with stack.bus_of("gateway") as bus:
            for tenant, earlier in self.signed.items():
                refusal = await _compare(stack, bus, tenant, earlier)
                outcomes["continued" if refusal is None else "broken"] += 1
                if refusal is not None:
                    self.refusals.append(f"{tenant}: {refusal}")
        return outcomes


async def _compare(stack: Stack, bus: Bus, tenant: str, earlier: str) -> str | None:
    """Why a log does not continue what was kept of it; None if it does."""
    ctx = asking(tenant, "svc_judge", Permission.AUDIT_READ)
    entries, _ = await stored_log(stack, tenant)
    leaves = [entry["leaf"].encode() for entry in entries]
    try:
        key = (await bus.call(ctx, GetAuditKey())).key
        signed = (await bus.call(ctx, GetCheckpoint())).checkpoint
        Verification(lambda _: None).log(key, None, signed, leaves, earlier)
    except (AppError, Refused) as error:
        return str(error)
    return None


async def ids_of(stack: Stack, tenant: str) -> list[str]:
    """The ids of a log's events, by index."""
    entries, _ = await stored_log(stack, tenant)
    return [ids.encode("evt", entry["event_id"]) for entry in entries]
