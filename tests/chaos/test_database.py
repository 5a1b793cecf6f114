"""PostgreSQL is killed and comes back."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.support.load import DEADLINE, Load, assert_kept
from tests.support.stack import Person, Stack, content_of, refused, until

pytestmark = pytest.mark.chaos


class TestADatabaseThatIsKilled:
    @pytest.mark.alone
    async def test_is_unavailable_and_loses_nothing_that_was_acknowledged(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        async with Load(person) as load:

            async def has(status: int, least: int) -> bool:
                return load.count(status) >= least

            await until("the load runs", lambda: has(200, 30))
            cut = time.monotonic()
            os.kill(fragile.postgres.pid, signal.SIGKILL)
            await until("callers are refused", lambda: has(503, 30), seconds=5)
            back = time.monotonic()
            fragile.postgres.restart()
            returned, acknowledged = time.monotonic(), load.count(200)
            await until("requests succeed again", lambda: has(200, acknowledged + 30), seconds=10)
            took = time.monotonic() - returned
        for outcome in load.done:
            assert outcome.status in (200, 503, 504), outcome
            assert outcome.seconds < DEADLINE + 1, outcome
            if outcome.status != 200:
                assert outcome.code in ("unavailable", "timeout"), outcome
        for outcome in load.between(cut + 0.5, back - 0.5):
            assert outcome.status == 503, outcome
            assert outcome.seconds < 1, outcome
        await fragile.ready()
        await assert_kept(fragile, person, load.done)
        tell(f"chaos: PostgreSQL killed: {load.summary()}; {took * 1000:.0f} ms after its return 30 more; nothing lost")

    async def test_is_named_by_readiness_and_by_the_refusal(self, fragile: Stack, person: Person) -> None:
        content_of(await person.get("/workspace"))
        os.kill(fragile.postgres.pid, signal.SIGKILL)
        try:

            async def says() -> dict[str, str]:
                checks: dict[str, str] = (await fragile.readiness("vault")).get("checks", {})
                return checks if checks.get("vault.database", "ok") != "ok" else {}

            checks = await until("readiness names the database", says, seconds=5)
            assert checks["vault.bus"] == "ok"
            answer = await person.put("/secrets/x", json={"value": "v"})
            refused(answer, 503, "unavailable")
            assert answer.headers["retry-after"]
        finally:
            fragile.postgres.restart()
        await fragile.ready()
        content_of(await person.put("/secrets/x", json={"value": "v"}))

    async def test_whose_sessions_are_cut_is_reached_again_at_once(self, fragile: Stack, person: Person) -> None:
        """As a failover or an operator does."""
        content_of(await person.put("/secrets/x", json={"value": "v"}))
        async with fragile.sql() as sql:
            await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'causeloop%'")

        async def succeeds() -> bool:
            answer = await person.put("/secrets/y", json={"value": "v"})
            return answer.status_code == 200 or not refused(answer, 503, "unavailable")

        await until("requests succeed again", succeeds, seconds=3)
        await fragile.ready()
