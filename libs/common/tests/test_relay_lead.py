"""Relays of several replicas: one is at work, woken by every commit; another takes over."""

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import asyncpg
import pytest

from causeloop_common.context import AuthContext
from causeloop_common.database import Database
from causeloop_common.messaging import Bus
from causeloop_common.relay import emptying, late, work as rooms
from tests.support.relaying import ROLE, Run, announce, arrived, relays

pytestmark = pytest.mark.usefixtures("hurried")


class TestLead:
    async def test_a_commit_wakes_it(
        self, house: Any, run: Run, database: Database, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        relay = await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        monkeypatch.setattr(rooms, "POLL_SECONDS", 60)
        await asyncio.sleep(0.06)  # it waits for a minute now

        await announce(database, workspace, "two")
        await arrived(house, workspace, "one", "two")
        await relay.leader.check()

    async def test_a_commit_of_another_replica_wakes_it_over_the_bus(
        self,
        house: Any,
        run: Run,
        scratch: Any,
        bus: Callable[[str], Awaitable[Bus]],
        database: Database,
        replica: Database,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Or what a replica commits whose relay stands by would wait for the next poll, and a revocation with it."""
        await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        monkeypatch.setattr(rooms, "POLL_SECONDS", 60)
        async with relays(scratch.dsn(ROLE), await bus("tenancy"), replica) as another:
            await another()
            await asyncio.sleep(0.2)  # it stands by, and the first waits for a minute now

            await announce(replica, workspace, "two")
            await arrived(house, workspace, "one", "two")

    async def test_two_are_not_at_work_and_the_second_takes_over(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        first = await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        second = await run()
        await asyncio.sleep(0.1)
        assert (first.leader.leads, second.leader.leads) == (True, False)
        await announce(database, workspace, "two")
        await arrived(house, workspace, "one", "two")
        first.task.cancel()
        await announce(database, workspace, "three")
        await arrived(house, workspace, "one", "two", "three")
        await second.leader.check()

    async def test_it_goes_on_when_its_connection_was_cut(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        killed = await superuser.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'causeloop-tenancy-relay'"
        )
        assert killed

        await announce(database, workspace, "two")
        await arrived(house, workspace, "one", "two")

    @pytest.mark.parametrize(
        ("room", "look", "values"),
        [(rooms, "_SET_ASIDE", ""), (emptying, "_WAITS", ", $1::int"), (late, "_LONGEST", "")],
        ids=["set aside", "old bucket", "gauge"],
    )
    async def test_a_look_that_takes_too_long_holds_up_no_event(
        self,
        house: Any,
        run: Run,
        database: Database,
        workspace: AuthContext,
        monkeypatch: pytest.MonkeyPatch,
        room: ModuleType,
        look: str,
        values: str,
    ) -> None:
        """E15: after a long outage the timeout of a gauge's statement ended each lead before it had moved anything."""
        monkeypatch.setattr(room, look, f"SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5){values}")
        relay = await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        await relay.leader.check()
