"""Receipts: a row is kept until the log has its event, and sent again when it must have had it and has not."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from prometheus_client import REGISTRY

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.database import Database
from causeloop_common.messaging import Bus
from causeloop_common.relay import late, parts, receipts as room, work
from causeloop_common.relay.reconcile import reconcile
from tests.support import outboxes
from tests.support.relaying import ROLE, Run, announce

ROWS = """
    SELECT event_id, stream_seq, digest, confirmed_batch, attempts, published_at FROM tenancy.outbox
    WHERE workspace_id = $1 AND published_at IS NOT NULL ORDER BY seq
"""


@pytest.fixture(autouse=True)
def hurried(hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(room, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(room, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(room, "_CONFIRM_SECONDS", 0.0)


@pytest.fixture
async def relay(run: Run, superuser: asyncpg.Connection) -> None:
    """A relay of tenancy that runs, and has heeded no term of the log."""
    await superuser.execute("UPDATE tenancy.relay_state SET term = '', confirmed_batch = 0")
    await run()


class Log:
    """The log's side, spoken by a test."""

    def __init__(self, audit: Bus, superuser: asyncpg.Connection, ctx: AuthContext) -> None:
        self._audit, self._sql, self._ctx = audit, superuser, ctx

    async def rows(self, count: int) -> list[Any]:
        """The rows of the tenant that are published, once there are that many."""
        async with asyncio.timeout(5):
            while len(rows := await self._sql.fetch(ROWS, self._ctx.tenant_uuid)) != count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return rows

    async def of_ten_minutes_ago(self, database: Database) -> Any:
        """The row of a new event, as if it had been published ten minutes ago."""
        await announce(database, self._ctx, "one")
        (row,) = await self.rows(1)
        long_ago = "UPDATE tenancy.outbox SET published_at = now() - interval '10 minutes' WHERE event_id = $1"
        await self._sql.execute(long_ago, row["event_id"])
        return row

    async def has_batches(self, *batches: int | None) -> None:
        """Wait until the tenant's rows are confirmed by these batches."""
        async with asyncio.timeout(5):
            while [row["confirmed_batch"] for row in await self.rows(len(batches))] != list(batches):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def receipt(
        self,
        row: Any,
        *,
        digest: bytes | None = None,
        malformed: bool = False,
        batch: int = 7,
        term: str = "t",
        began: int = 0,
        terms: Sequence[tuple[str, int]] = (),
    ) -> None:
        entry = [row["stream_seq"], ids.encode("evt", row["event_id"]), (digest or row["digest"]).hex(), malformed]
        body = {"term": term, "began": began, "batch": batch, "entries": [entry], "terms": terms}
        await self._audit.client.publish(topology.entered("tenancy"), orjson.dumps(body))

    async def floors(
        self,
        passed: int,
        *,
        first: int = 1,
        last: int | None = None,
        seconds: float = 1.2,
        term: str = "t",
        began: int = 0,
    ) -> None:
        """Send the floor for a while."""
        body = {"term": term, "began": began, "batch": began, "floor": passed, "first": first}
        for _ in range(round(seconds / 0.05)):
            await self._audit.client.publish(
                topology.FLOOR, orjson.dumps({**body, "last": 10**9 if last is None else last})
            )
            await asyncio.sleep(0.05)

    async def until(self, field: str, value: Any) -> None:
        """Wait until the tenant's only row has this."""
        async with asyncio.timeout(5):
            while not (rows := await self._sql.fetch(ROWS, self._ctx.tenant_uuid)) or rows[0][field] != value:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest.fixture
async def log(bus: Callable[[str], Awaitable[Bus]], superuser: asyncpg.Connection, workspace: AuthContext) -> Log:
    return Log(await bus("audit"), superuser, workspace)


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"service": "tenancy", **labels}) or 0.0


async def message_id(house: Any, row: Any) -> str:
    """The id under which the stream has a row's message."""
    message = await (await house.operator()).jetstream().get_msg("EVENTS", row["stream_seq"])
    return str(message.headers["Nats-Msg-Id"])


class TestReceipt:
    async def test_with_the_rows_digest_confirms_it(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        assert row["confirmed_batch"] is None

        await log.receipt(row)
        await log.until("confirmed_batch", 7)

    async def test_with_another_digest_is_an_alarm_and_sets_the_row_aside(
        self, relay: None, log: Log, database: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        """P3: the log has an event of somebody else under this id: the row is neither confirmed nor sent for ever."""
        before = count("causeloop_outbox_receipt_alarms_total", why="different")
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)

        await log.receipt(row, digest=b"x" * 32)
        async with asyncio.timeout(5):
            while count("causeloop_outbox_receipt_alarms_total", why="different") == before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await log.until("confirmed_batch", 0)
        kept = await superuser.fetchrow("SELECT * FROM tenancy.outbox_set_aside")
        await superuser.execute("TRUNCATE tenancy.outbox_set_aside")
        assert kept is not None
        assert kept["reason"] == "another has its id"
        assert orjson.loads(kept["event"])["stream_seq"] == row["stream_seq"]
        await log.floors(10**9)
        (row,) = await log.rows(1)
        assert (row["attempts"], row["stream_seq"]) == (0, None)

    async def test_that_does_not_come_is_seen_by_the_age_of_its_row(
        self, relay: None, log: Log, database: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await superuser.execute(
            "UPDATE tenancy.outbox SET occurred_at = now() - interval '30 days' WHERE event_id = $1", row["event_id"]
        )
        async with asyncio.timeout(5):
            while count("causeloop_outbox_unreceipted_seconds") < 29 * 86_400:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await log.receipt(row)
        async with asyncio.timeout(5):
            while count("causeloop_outbox_unreceipted_seconds") > 29 * 86_400:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def test_of_a_malformed_entry_confirms_and_is_an_alarm(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        before = count("causeloop_outbox_receipt_alarms_total", why="malformed")
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)

        await log.receipt(row, malformed=True)
        await log.until("confirmed_batch", 7)
        assert count("causeloop_outbox_receipt_alarms_total", why="malformed") == before + 1
        await log.floors(10**9)
        (row,) = await log.rows(1)
        assert row["attempts"] == 0

    @pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"batch":1,"entries":[[1]]}', b"\xff"])
    async def test_that_is_none_ends_nothing(
        self,
        relay: None,
        log: Log,
        bus: Callable[[str], Awaitable[Bus]],
        database: Database,
        workspace: AuthContext,
        body: bytes,
    ) -> None:
        audit = await bus("audit")
        for subject in (topology.entered("tenancy"), topology.FLOOR):
            await audit.client.publish(subject, body)
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.receipt(row)
        await log.until("confirmed_batch", 7)


class TestRestore:
    async def test_takes_back_what_later_batches_had_confirmed(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """Audit's database was restored from an older copy: its next term begins below what it had receipted."""
        await announce(database, workspace, "one", "two")
        first, second = await log.rows(2)
        await log.receipt(first, batch=1005)
        await log.receipt(second, batch=1007)
        await log.has_batches(1005, 1007)

        await log.receipt(first, batch=1006, term="u", began=1007)  # a term that begins above
        await asyncio.sleep(0.2)
        assert [row["confirmed_batch"] for row in await log.rows(2)] == [1005, 1007]
        await log.receipt(first, batch=1006, term="v", began=1005)
        await log.has_batches(1005, None)

    async def test_sends_nothing_again_that_the_intake_enters_again(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """P6: the stream is entered again from an earlier number: how far it was passed before counts no more."""
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.receipt(row, batch=4001)
        await log.until("confirmed_batch", 4001)
        await log.floors(row["stream_seq"])

        await log.floors(row["stream_seq"] - 1, term="v", began=4000)
        (again,) = await log.rows(1)
        assert (again["confirmed_batch"], again["attempts"]) == (None, 0)
        await log.receipt(row, batch=4001, term="v", began=4000)
        await log.until("confirmed_batch", 4001)

    async def test_is_noticed_by_a_relay_that_missed_the_first_term_after_it(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """The intake led twice before this relay received anything of it; the second term begins above."""
        await announce(database, workspace, "one", "two")
        first, second = await log.rows(2)
        await log.receipt(first, batch=3089, term="5", began=3000)
        await log.receipt(second, batch=3100, term="5", began=3000)
        await log.has_batches(3089, 3100)

        terms = [("3", 0), ("5", 3000), ("6", 3100), ("7", 3200)]
        await log.receipt(first, batch=3201, term="7", began=3200, terms=terms)
        await asyncio.sleep(0.2)
        assert [row["confirmed_batch"] for row in await log.rows(2)] == [3089, 3100]
        terms = [("3", 0), ("8", 3090), ("9", 3210)]
        await log.receipt(first, batch=3211, term="9", began=3210, terms=terms)
        await log.has_batches(3089, None)

    async def test_is_taken_back_in_parts_beside_what_is_published(
        self,
        relay: None,
        log: Log,
        database: Database,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """More rows than a statement may look at; the term is kept only after the last part."""
        monkeypatch.setattr(parts, "PART", 2)
        await announce(database, workspace, *"abcdefg")
        for row in await log.rows(7):
            await log.receipt(row, batch=2005)
        await log.has_batches(*[2005] * 7)

        await log.receipt(row, batch=2001, term="v", began=2000)
        await log.receipt(row, batch=2011, term="w", began=2010)
        async with asyncio.timeout(5):
            while await superuser.fetchval("SELECT term FROM tenancy.relay_state") != "w":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        taken = [row["confirmed_batch"] for row in await log.rows(7)]
        assert taken[:-1] == [None] * 6
        await log.receipt(row, batch=2011, term="w", began=2010)
        async with asyncio.timeout(5):
            while (await log.rows(7))[-1]["confirmed_batch"] != 2011:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


class TestMissing:
    async def test_a_row_that_the_floor_passed_is_sent_again_under_another_id(
        self, house: Any, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """P1: an event that is acknowledged and not entered."""
        before = count("causeloop_outbox_sent_again_total", why="lost")
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.floors(row["stream_seq"])

        await log.until("attempts", 1)
        (again,) = await log.rows(1)
        assert again["stream_seq"] > row["stream_seq"]
        assert again["digest"] == row["digest"]
        assert await message_id(house, again) != await message_id(house, row)
        assert count("causeloop_outbox_sent_again_total", why="lost") > before
        await log.receipt(again)
        await log.until("confirmed_batch", 7)

    async def test_a_row_that_the_stream_lost_is_sent_again(
        self, house: Any, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """E15: the stream was purged: its first number is beyond the row's."""
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.floors(0, first=row["stream_seq"] + 1)
        await log.until("attempts", 1)

    async def test_a_row_beyond_the_end_of_the_stream_is_sent_again(
        self, house: Any, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """E15: the stream was made anew."""
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.floors(0, last=row["stream_seq"] - 1, seconds=0.6)
        await log.until("attempts", 1)

    async def test_what_an_intake_before_had_passed_counts_no_more(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """E15: a late floor of an earlier term raised the alarm about rows that were not lost."""
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.floors(row["stream_seq"] - 1, term="5", seconds=0.3)
        await log.floors(row["stream_seq"] - 1, term="6", seconds=0.6)

        await log.floors(10**9, term="5")
        (row,) = await log.rows(1)
        assert row["attempts"] == 0

    async def test_a_row_is_sent_again_though_one_intake_follows_another(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """E15: while the intake's connection was cut again and again, no loss was made good."""
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        for term in range(12):
            await log.floors(row["stream_seq"], term=f"{term:02}", seconds=0.1)
        await log.until("attempts", 1)

    async def test_nothing_is_sent_again_that_is_entered_again(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """P6: an intake after a restore passes less of the stream than one before; no receipt came of late."""
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.floors(row["stream_seq"], term="5", seconds=0.2)
        await log.floors(row["stream_seq"] - 1, term="6", seconds=0.6)
        (row,) = await log.rows(1)
        assert row["attempts"] == 0

    async def test_a_late_word_of_an_intake_before_keeps_no_receipt_from_counting(
        self, relay: None, log: Log, database: Database, workspace: AuthContext
    ) -> None:
        """E15: it was taken for a new term, and whatever came of the real one was ignored from then on."""
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.floors(row["stream_seq"] - 1, term="6", seconds=0.3)
        await log.floors(row["stream_seq"] - 1, term="5", seconds=0.3)
        await log.receipt(row, batch=7, term="6")
        await log.until("confirmed_batch", 7)

    async def test_rows_are_looked_up_in_the_order_of_an_index(self, superuser: asyncpg.Connection) -> None:
        """E15: all that was missing was sorted for each round, which takes more than a statement may."""
        own = {"schema": "tenancy", "fence": "true", "soon": "true", "due": room._DUE, "first": 1000}
        looks: list[tuple[str, list[int]]] = [(room._SEND_AGAIN, [1, 1, 1, 1, 1, 1]), (late._LONGEST, [])]
        async with superuser.transaction():
            for other in ("sort", "seqscan", "bitmapscan"):
                await superuser.execute(f"SET LOCAL enable_{other} = off")
            for statement, values in looks:
                explain = f"EXPLAIN (FORMAT JSON) {statement.format(**own)}"
                plan = await superuser.fetchval(explain, *values)
                assert '"Node Type": "Limit"' in plan
                assert '"Node Type": "Sort"' not in plan

    async def test_lag_is_no_loss(self, relay: None, log: Log, database: Database) -> None:
        row = await log.of_ten_minutes_ago(database)
        await log.floors(row["stream_seq"] - 1)
        (row,) = await log.rows(1)
        assert row["attempts"] == 0

    async def test_silence_is_no_loss(self, relay: None, log: Log, database: Database) -> None:
        await log.of_ten_minutes_ago(database)
        await asyncio.sleep(1.2)
        (row,) = await log.rows(1)
        assert row["attempts"] == 0

    async def test_the_pause_doubles_with_each_attempt(
        self, relay: None, log: Log, database: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await outboxes.settle(superuser)  # or what other tests left is sent between, and this row later
        await announce(database, workspace, "one")
        await log.rows(1)
        await log.floors(10**9, seconds=3.0)
        rows = await log.rows(1)
        assert 2 <= rows[0]["attempts"] <= 3  # after 0.3, 0.6 and 1.2 seconds, and not twenty times


class TestReconcile:
    @pytest.fixture(autouse=True)
    async def settled(self, superuser: asyncpg.Connection) -> None:
        """What other tests left unreceipted is not lost here."""
        await outboxes.settle(superuser)

    async def test_sends_again_without_an_alarm_what_an_operator_asks_for(
        self, relay: None, log: Log, scratch: Any, database: Database, workspace: AuthContext,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """E15: on a healthy installation nothing was lost, so no counter and no line of the alarm moves."""
        caplog.set_level(logging.INFO, room.__name__)
        began = datetime.now(UTC)
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.receipt(row)
        await log.until("confirmed_batch", 7)
        lost, asked = (count("causeloop_outbox_sent_again_total", why=why) for why in ("lost", "asked"))

        await reconcile(scratch.dsn(ROLE), "tenancy", began)
        caplog.clear()
        await log.floors(10**9, seconds=0.8)
        (again,) = await log.rows(1)
        assert (again["attempts"], again["digest"]) == (1, row["digest"])
        await log.receipt(again)
        await log.until("confirmed_batch", 7)
        assert count("causeloop_outbox_sent_again_total", why="asked") == asked + 1
        assert count("causeloop_outbox_sent_again_total", why="lost") == lost
        assert "1 events of tenancy are sent again, as `causeloop events reconcile` asks" in caplog.text
        assert {record.levelno for record in caplog.records if record.name == room.__name__} == {logging.INFO}

    async def test_counts_by_the_time_of_the_act_and_what_waits_apart(
        self, log: Log, scratch: Any, database: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        """E15: three runs in a row counted 14, 0 and 0 events, since each sending made the publication later."""
        settled = "UPDATE tenancy.outbox SET published_at = now(), stream_seq = seq, digest = '', confirmed_batch = 1"
        await announce(database, workspace, "of before")
        await superuser.execute(f"{settled}, occurred_at = now() - interval '1 hour'")
        began = datetime.now(UTC) - timedelta(minutes=1)
        await announce(database, workspace, "one", "two")
        await superuser.execute(f"{settled} WHERE confirmed_batch IS NULL")

        async def run() -> str:
            return await reconcile(scratch.dsn(ROLE), "tenancy", began)

        assert await run() == "2 events will be sent again, 0 wait already."
        assert await run() == "0 events will be sent again, 2 wait already."
        await superuser.execute(f"{settled} WHERE confirmed_batch IS NULL")
        assert await run() == "2 events will be sent again, 0 wait already."
        await superuser.execute(f"{settled} WHERE confirmed_batch IS NULL")

    async def test_is_kept_when_the_server_of_the_stream_is_started_anew(
        self, run: Run, log: Log, scratch: Any, database: Database, workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:  # fmt: skip
        """E15: published anew at once, it would lose its mark, and pass for lost."""
        await superuser.execute("UPDATE tenancy.relay_state SET term = '', confirmed_batch = 0")
        first = await run()
        began = datetime.now(UTC)
        await announce(database, workspace, "one")
        (row,) = await log.rows(1)
        await log.receipt(row)
        await log.until("confirmed_batch", 7)
        first.task.cancel()
        await asyncio.gather(first.task, return_exceptions=True)
        await reconcile(scratch.dsn(ROLE), "tenancy", began)
        await superuser.execute("UPDATE tenancy.relay_state SET server_id = 'another'")
        lost = count("causeloop_outbox_sent_again_total", why="lost")

        await run()
        await log.floors(10**9, seconds=0.8)
        assert [one["attempts"] for one in await log.rows(1)] == [1]
        assert count("causeloop_outbox_sent_again_total", why="lost") == lost
