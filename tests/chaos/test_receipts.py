"""What was lost between the outbox and the log is sent again: every act that was answered has its entry."""

import os
import re
import signal
from datetime import UTC, datetime

import pytest

from causeloop_common import ids
from causeloop_common.relay.reconcile import reconcile
from tests.chaos.test_log import all_are_published, stop_between_batches
from tests.support.copies import Copy
from tests.support.log import completed_log
from tests.support.stack import Person, Stack, content_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.campaign]

SENT_AGAIN = 'causeloop_outbox_sent_again_total{{service="vault",why="{}"}}'


class TestLoss:
    async def test_of_the_stream_is_made_good_without_a_restart(self, fragile: Stack, person: Person) -> None:
        """E15: EVENTS is purged while events are not consumed; they are noticed, counted and sent again."""
        await stop_between_batches(fragile)
        try:
            for number in range(10):
                content_of(await person.put(f"/secrets/lost/{number}", json={"value": "v"}))
            await until("all are on the bus", lambda: all_are_published(fragile))
            async with fragile.on_bus("operator") as operator:
                await operator.jetstream().purge_stream("EVENTS")
        finally:
            os.kill(fragile.processes["audit"].pid, signal.SIGCONT)
        content_of(await person.put("/secrets/later", json={"value": "v"}))

        entries = await completed_log(fragile, person)
        assert [entry["action"] for entry in entries].count("vault.secret_written") == 11
        assert await fragile.metric("vault", SENT_AGAIN.format("lost")) >= 10

        async def confirmed() -> bool:
            async with fragile.sql() as sql:
                return not await sql.fetchval("SELECT count(*) FROM vault.outbox WHERE confirmed_batch IS NULL")

        await until("every row is confirmed", confirmed)

    async def test_of_entries_is_made_good_by_the_operator(self, fragile: Stack, person: Person) -> None:
        """E15: `causeloop events reconcile` has the log enter what it lost behind the back of its receipts."""
        began = datetime.now(UTC)
        for number in range(3):
            content_of(await person.put(f"/secrets/gone/{number}", json={"value": "v"}))
        await completed_log(fragile, person)
        workspace = ids.tenant_uuid(person.workspace)

        async def confirmed() -> bool:
            async with fragile.sql() as sql:
                return not await sql.fetchval(
                    "SELECT count(*) FROM vault.outbox WHERE workspace_id = $1 AND confirmed_batch IS NULL", workspace
                )

        await until("every row is confirmed", confirmed)
        async with fragile.sql() as sql:
            for table in ("entries", "heads", "nodes", "checkpoints"):
                await sql.execute(f"DELETE FROM audit.{table} WHERE workspace_id = $1", workspace)
        done = await reconcile(fragile.database_url("causeloop_vault_relay"), "vault", began)
        assert re.fullmatch(r"\d+ events will be sent again, \d+ wait already\.", done)

        async def entered() -> bool:
            async with fragile.sql() as sql:
                return bool(
                    await sql.fetchval(
                        "SELECT count(*) = 3 FROM audit.entries WHERE workspace_id = $1 "
                        "AND action = 'vault.secret_written'",
                        workspace,
                    )
                )

        await until("what was lost is entered", entered)
        assert await fragile.metric("vault", SENT_AGAIN.format("asked")) >= 3


class TestRestore:
    async def test_of_audit_is_followed_by_the_log_that_was_signed(self, fragile: Stack, person: Person) -> None:
        """P6: the stream is entered again: the log has the same entries, reaches the signed root, and goes on."""

        async def write(*numbers: int) -> list[str]:
            for number in numbers:
                content_of(await person.put(f"/secrets/kept/{number}", json={"value": "v"}))
            return [entry["leaf"] for entry in await completed_log(fragile, person)]

        copy = Copy("audit")
        await write(1, 2)
        async with fragile.sql() as sql:
            await copy.take(sql)
        before = await write(3, 4, 5)
        signed = content_of(await person.get("/audit/checkpoint"))

        fragile.kill("audit")
        async with fragile.sql() as sql:
            await copy.put_back(sql)
        await fragile.start("audit")

        assert [entry["leaf"] for entry in await completed_log(fragile, person)] == before
        assert content_of(await person.get("/audit/checkpoint")) == signed
        after = await write(6)
        assert after[: len(before)] == before
        assert content_of(await person.get("/audit/checkpoint"))["size"] == len(after)
