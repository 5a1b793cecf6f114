"""The relay and the intake are killed at random under load: the log has each event exactly once."""

import asyncio
import os
import random
import signal
from collections.abc import Callable

import pytest
from nats.js.api import ConsumerInfo

from causeloop_common.contracts import topology
from tests.support.faults import answer_commit, commits_without_saying_so, has_committed
from tests.support.load import Load, assert_kept
from tests.support.log import completed_log
from tests.support.stack import Person, Stack, content_of, refused, until

pytestmark = pytest.mark.chaos


class TestTheLog:
    async def test_has_each_event_once_though_relay_and_intake_are_killed_at_random(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        crashes = 0
        async with Load(person, pace=0.01) as load:
            for service in random.sample(["audit", "audit", "vault", "audit", "vault"], 5):

                async def more(least: int = load.count(200) + random.randrange(1, 40)) -> bool:
                    return load.count(200) >= least

                await until("some more were written", more)
                await fragile.restart(service)
                crashes += 1
        await fragile.ready()
        assert set(load.statuses()) <= {200, 503, 504}
        await assert_kept(fragile, person, load.done)
        entries = await completed_log(fragile, person)
        tell(
            f"chaos: {crashes} crashes of audit and vault, {load.summary()}: {len(entries)} entries, each once, dense, "
            "computed"
        )

    async def test_has_in_order_what_a_killed_intake_held_in_its_hand(self, fragile: Stack, person: Person) -> None:
        """One acknowledgement covers all before it: a later one must not cover what was delivered and never entered."""
        await stop_between_batches(fragile)
        held = [content_of(await person.put(f"/secrets/held/{n}", json={"value": "v"}))["id"] for n in range(3)]
        await until("all are on the bus", lambda: all_are_published(fragile))
        async with fragile.sql() as sql, sql.transaction():
            await sql.execute("LOCK TABLE audit.entries IN EXCLUSIVE MODE")
            os.kill(fragile.processes["audit"].pid, signal.SIGCONT)
            await until("the intake holds them all", lambda: all_are_delivered(fragile))
            fragile.kill("audit")
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'causeloop_audit_writer'"
            )
        later = [content_of(await person.put(f"/secrets/later/{n}", json={"value": "v"}))["id"] for n in range(3)]
        await fragile.start("audit")
        entries = await completed_log(fragile, person)
        written = [entry["target"] for entry in entries if entry["action"] == "vault.secret_written"]
        assert written == held + later

    async def test_has_once_what_a_killed_intake_entered_and_did_not_acknowledge(
        self, fragile: Stack, person: Person
    ) -> None:
        await stop_between_batches(fragile)
        for number in range(3):
            content_of(await person.put(f"/secrets/entered/{number}", json={"value": "v"}))
        await until("all are on the bus", lambda: all_are_published(fragile))
        async with commits_without_saying_so(fragile):
            os.kill(fragile.processes["audit"].pid, signal.SIGCONT)
            await answer_commit(fragile, "causeloop_audit_writer")  # that of the new term
            await until("all are delivered, and none acknowledged", lambda: all_are_delivered(fragile))
            await until("they are entered", lambda: has_committed(fragile, "causeloop_audit_writer"))
            fragile.kill("audit")
        await fragile.start("audit")
        content_of(await person.put("/secrets/later", json={"value": "v"}))
        entries = await completed_log(fragile, person)
        assert [entry["action"] for entry in entries].count("vault.secret_written") == 4

    async def test_catches_up_with_what_happened_while_audit_was_away(self, fragile: Stack, person: Person) -> None:
        fragile.kill("audit")
        for number in range(20):
            content_of(await person.put(f"/secrets/away/{number}", json={"value": "v"}))
        refused(await person.get("/audit/events"), 503, "unavailable")
        await fragile.start("audit")
        entries = await completed_log(fragile, person)
        assert [entry["action"] for entry in entries].count("vault.secret_written") == 20


class TestAServiceThatIsNotedToStop:
    @pytest.mark.parametrize("service", ["vault", "tenancy", "auth"])
    async def test_finishes_what_it_began_and_leaves_nobody_without_an_answer(
        self, fragile: Stack, person: Person, service: str
    ) -> None:
        content_of(await person.put("/secrets/x", json={"value": "v"}))
        async with Load(person, pace=0.01) as load:

            async def running() -> bool:
                return load.count(200) >= 20

            await until("the load runs", running)
            process = fragile.processes[service]
            os.kill(process.pid, signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, 10)
        assert code == 0
        await fragile.start(service)
        assert set(load.statuses()) <= {200, 503}, load.summary()
        await assert_kept(fragile, person, load.done)

    async def test_tells_the_log_of_refusals_it_still_counted(self, fragile: Stack, person: Person) -> None:
        token = (await person.personal_token("secrets:read"))["token"]
        for _ in range(3):
            refused(await person.put("/secrets/x", json={"value": "v"}, token=token), 403, "forbidden")
        os.kill(fragile.processes["gateway"].pid, signal.SIGTERM)
        await asyncio.to_thread(fragile.processes["gateway"].wait, 10)
        await fragile.start("gateway")

        async def recorded() -> list[dict[str, object]]:
            found = [entry async for entry in person.pages("/audit/events?action=gateway.")]
            return [entry["data"] for entry in found]

        (sum_,) = await until("the log has the refusals", recorded)
        assert (sum_["operation"], sum_["code"], sum_["count"]) == ("put_secret", "forbidden", 3)
        assert sum_["principal"] == person.id


async def all_are_published(stack: Stack) -> bool:
    """Whether everything that was committed is on the bus."""
    async with stack.sql() as sql:
        waiting = [
            await sql.fetchval(f"SELECT count(*) FROM {schema}.outbox WHERE published_at IS NULL")
            for schema in topology.OWNERS
        ]
    return not any(waiting)


async def intake(stack: Stack) -> ConsumerInfo:
    """The state of the intake's consumer."""
    async with stack.on_bus("operator") as operator:
        consumer: ConsumerInfo = await operator.jetstream().consumer_info("EVENTS", "audit_intake")
    return consumer


async def all_are_delivered(stack: Stack) -> bool:
    """Whether everything on the bus is with the intake, and not acknowledged."""
    consumer = await intake(stack)
    return not consumer.num_pending and bool(consumer.num_ack_pending)


async def stop_between_batches(stack: Stack) -> None:
    """Stop audit (SIGSTOP) where it holds no event, no lock and no open question: what comes then is one batch."""
    audit = stack.processes["audit"].pid

    async def rests() -> bool:
        consumer = await intake(stack)
        async with stack.sql() as sql:
            at_work = await sql.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'causeloop_audit_writer' AND state <> 'idle'"
            )
        return not (consumer.num_pending or consumer.num_ack_pending or at_work)

    async def stopped() -> bool:
        await until("the intake rests", rests)
        os.kill(audit, signal.SIGSTOP)
        await until("its question has expired", unasked)
        if await rests():
            return True
        os.kill(audit, signal.SIGCONT)
        return False

    async def unasked() -> bool:
        return not (await intake(stack)).num_waiting

    await until("audit stands still between two batches", stopped)
