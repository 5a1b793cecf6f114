"""The row `workspaces_scale`: what a read costs when there are many workspaces.

Two installations take turns: a small one with ten workspaces, a large one with ten thousand. Each workspace has an
owner with a session, and a secret whose metadata is read. Three loads, round by round: the ten of the small one, ten of
the large one, and all of the large one, whose tokens were all used shortly before. Rows and tokens are made past the
services, since signing ten thousand people up would take minutes; they are what the services would have made.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg

from bench.cpu import Processes
from bench.rows import CONNECTIONS, Services, http_request, servers, services
from bench.run import Effort, Measure, Row, cpu_ms, in_turn, load, median, paired
from causeloop_auth.domain import access
from causeloop_common import ids
from causeloop_common.settings import Settings

FEW = 10
MANY = 10_000
SAME_BAR, SPREAD_BAR = 1.10, 1.5
MEMORY_BAR = 20.0
PATH = "bench/scale"

_FILL = (
    """
    INSERT INTO tenancy.workspaces (workspace_id, name, slug, timezone, created_by, created_at)
    SELECT workspace, 'Scale', 'scale', 'UTC', person, now()
    FROM unnest($1::uuid[], $2::uuid[]) AS t (workspace, person)
    """,
    """
    INSERT INTO tenancy.members (workspace_id, person_id, role, joined_at)
    SELECT workspace, person, 'owner', now() FROM unnest($1::uuid[], $2::uuid[]) AS t (workspace, person)
    """,
)
_SESSIONS = """
    INSERT INTO auth.sessions (workspace_id, id, current, rotated_at, entered, created_at, expires_at)
    SELECT person, session, decode(md5(session::text), 'hex'), now(), workspace, now(), now() + interval '1 day'
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS t (workspace, person, session)
"""
_SECRETS = """
    INSERT INTO vault.secrets (workspace_id, path, id, version, created_at, updated_at)
    SELECT workspace, $2, gen_random_uuid(), 1, now(), now() FROM unnest($1::uuid[]) AS t (workspace)
"""


@dataclass(frozen=True)
class Installation:
    """A running installation, and the requests of its workspaces."""

    services: Services
    requests: list[bytes]

    def load(self, requests: Sequence[bytes], seconds: float) -> dict[str, Any]:
        """A turn of load; the connections share the requests."""
        return load(self.services.port, _shares(requests), seconds)

    def use(self, requests: Sequence[bytes]) -> dict[str, Any]:
        """Send every request once."""
        return load(self.services.port, _shares(requests), 0, each=True)


def workspaces_scale(effort: Effort) -> Row:
    """p50 of a read with ten and with ten thousand workspaces, the same ten active and all of them."""
    with ExitStack() as stack:
        small = _installation(stack, FEW)
        large = _installation(stack, max(2 * FEW, effort.of(MANY)))
        few, all_ = large.requests[:FEW], large.requests
        large.load(few, effort.seconds)
        before = large.services.processes.resident()
        first = large.use(all_)  # nobody has used them yet
        grown = _growth(before, large.services.processes, len(all_) - FEW)

        def spread() -> dict[str, Any]:
            large.use(all_)
            return large.services.processes.during(partial(large.load, all_, effort.seconds))()

        ten, same, warm = in_turn(
            [partial(small.load, small.requests, effort.seconds), partial(large.load, few, effort.seconds), spread],
            effort.rounds,
        )
    same_ratio, spread_ratio = (paired(ten, other, "p50_ms") for other in (same, warm))
    held = {name: megabytes for name, megabytes in grown.items() if megabytes > MEMORY_BAR}
    return Row(
        ours=spread_ratio,
        reference=None,
        peer=None,
        unit="x",
        better="lower",
        bar=f"all <= {SPREAD_BAR} x ten alone, the same ten <= {SAME_BAR}, memory per 10 000 <= {MEMORY_BAR:.0f} MB",
        holds=same_ratio <= SAME_BAR and spread_ratio <= SPREAD_BAR and not held,
        p50_ms=median(warm, "p50_ms"),
        p99_ms=median(warm, "p99_ms"),
        cpu_ms={"ours": cpu_ms(warm)},
        note=f"the same ten {same_ratio:.2f}; p50 of ten alone {median(ten, 'p50_ms'):.2f} ms, of first uses "
        f"{first['p50_ms']:.2f} ms; MB for each 10 000 remembered: "
        + ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in grown.items()),
    )


def _shares(requests: Sequence[bytes]) -> list[list[bytes]]:
    return [list(requests[place::CONNECTIONS]) for place in range(min(CONNECTIONS, len(requests)))]


def _growth(before: dict[str, float], processes: Processes, workspaces: int) -> dict[str, float]:
    """How much the services grew, in MB for each 10 000 workspaces."""
    time.sleep(0.5)
    after = processes.resident()
    kept = {name: after[name] - before[name] for name in before if name not in ("nats", "postgres")}
    return {name: megabytes * MANY / workspaces for name, megabytes in kept.items()}


def _installation(stack: ExitStack, workspaces: int) -> Installation:
    house = stack.enter_context(servers())
    running = stack.enter_context(services(house))
    key = Settings.load("auth", house["environ"]["auth"]).keyring().own("access-token/v1")
    persons = [ids.realm("bench", str(number)) for number in range(workspaces)]
    entered, sessions = ([ids.new(kind) for _ in persons] for kind in ("ws", "ses"))
    asyncio.run(_fill(house["superuser_url"], entered, persons, sessions))
    now = datetime.now(UTC) - timedelta(seconds=1)
    tokens = (access.make(key, *of, now=now, seconds=86_400) for of in zip(persons, sessions, entered, strict=True))
    return Installation(running, [http_request("GET", f"/v1/secrets/{PATH}", token) for token in tokens])


async def _fill(superuser_url: str, entered: list[str], persons: list[str], sessions: list[str]) -> None:
    """Insert the rows, as what passes the commit guard does."""
    workspaces, people = ([ids.tenant_uuid(one) for one in many] for many in (entered, persons))
    connection = await asyncpg.connect(superuser_url, database="causeloop")
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            for statement in _FILL:
                await connection.execute(statement, workspaces, people)
            await connection.execute(_SESSIONS, workspaces, people, [ids.decode(one, "ses") for one in sessions])
            await connection.execute(_SECRETS, workspaces, PATH)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


ROWS: dict[str, Measure] = {"workspaces_scale": workspaces_scale}
