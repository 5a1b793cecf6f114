"""Events: retried when their handler fails, and never lost silently."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import nats.errors
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from causeloop_cli import dead as operator
from causeloop_common import ids, telemetry
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.tenancy import MemberAdded, WorkspaceCreated
from causeloop_common.contracts.topology import Consumer
from causeloop_common.errors import NotFound, Unavailable
from causeloop_common.messaging import Bus, EventRouter, event_headers, events as following
from causeloop_common.settings import SettingsError
from tests.support.announcing import PERSON, an_event, arrived

Connect = Callable[[str], Awaitable[Bus]]

LISTENER = Consumer("auth_listener", "EVENTS", "auth", ("evt.*.*.tenancy.*",))
SECOND = Consumer("auth_second", "EVENTS", "auth", ("evt.*.*.tenancy.*",))


@dataclass
class Listener:
    """A durable consumer with a router whose handler the test gives."""

    calls: list[tuple[AuthContext, MemberAdded, UUID]] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    done: asyncio.Queue[UUID] = field(default_factory=asyncio.Queue)
    router: EventRouter = field(init=False)
    bus: Bus = field(init=False)

    async def handle(self, ctx: AuthContext, event: MemberAdded, event_id: UUID) -> None:
        self.calls.append((ctx, event, event_id))
        self.traces.append(telemetry.traceparent())
        if self.failures:
            raise self.failures.pop(0)
        self.done.put_nowait(event_id)

    async def handled(self) -> UUID:
        return await asyncio.wait_for(self.done.get(), timeout=5)


Listen = Callable[..., Awaitable[Listener]]


@pytest.fixture
async def listen(house: Any, bus: Connect) -> Any:
    """Starts a router on a durable consumer made anew, of what is announced from now on: `await listen(attempts=2)`."""

    async def start(consumer: Consumer = LISTENER, *, attempts: int = 3, anew: bool = True) -> Listener:
        if anew:
            await (await house.operator()).jetstream().delete_consumer("EVENTS", consumer.name)
            await add(house, consumer)
        listener = Listener()
        router = EventRouter(consumer, {MemberAdded: listener.handle}, attempts=attempts)
        settings = house.settings("auth")
        owner = Bus(settings, settings.keyring())
        router.attach(owner)
        await owner.connect()
        listener.router, listener.bus = router, owner
        started.append((asyncio.create_task(router.run()), owner))
        return listener

    started: list[tuple[asyncio.Task[None], Bus]] = []
    yield start
    for task, one in started:
        task.cancel()
        await one.close()


@pytest.fixture
async def announce(bus: Connect) -> Callable[..., Awaitable[Announced]]:
    tenancy = await bus("tenancy")

    async def publish(event: Announced | None = None) -> Announced:
        sent = event or an_event()
        await tenancy.jetstream().publish(f"evt.{sent.tenant}.{sent.type}", sent.data, headers=event_headers(sent))
        return sent

    return publish


async def add(house: Any, consumer: Consumer = LISTENER) -> None:
    """Make the consumer, for what is announced from now on."""
    config = ConsumerConfig(
        durable_name=consumer.name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.NEW,
        filter_subjects=list(consumer.subjects),
        ack_wait=consumer.ack_wait_seconds,
    )
    await (await house.operator()).jetstream().add_consumer("EVENTS", config)


async def pending(house: Any, consumer: Consumer = LISTENER) -> tuple[int, int]:
    """What is not yet delivered, and delivered but not yet acknowledged."""
    info = await (await house.operator()).jetstream().consumer_info("EVENTS", consumer.name)
    return int(info.num_pending or 0), int(info.num_ack_pending or 0)


async def dead(house: Any) -> list[Any]:
    """All dead letters."""
    stream = (await house.operator()).jetstream()
    return [letter async for letter in operator.letters(stream)]


async def settled(is_so: bool) -> bool:
    return is_so


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await check():  # noqa: ASYNC110  what is asked lies outside this process
            await asyncio.sleep(0.01)


class TestRouter:
    async def test_a_handler_hears_the_event_and_on_whose_behalf(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        listener = await listen()
        event = await announce()

        assert await listener.handled() == following.identity(event)
        ((ctx, heard, _),) = listener.calls
        assert heard == MemberAdded(person_id=PERSON, role="owner")
        assert (ctx.tenant, ctx.principal, ctx.issuer) == (event.tenant, "svc_auth", "tenancy")
        assert (ctx.permissions, ctx.request_id) == (frozenset(), event.request_id)
        assert listener.traces == [event.traceparent]

        async def acknowledged() -> bool:
            return await pending(house) == (0, 0)

        await until(acknowledged)

    async def test_kinds_without_a_handler_are_passed_over(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        listener = await listen()
        data = WorkspaceCreated(workspace_id=ids.new("ws")).to_json()
        await announce(an_event(type="tenancy.workspace_created", data=data))
        await announce()
        await listener.handled()

        assert len(listener.calls) == 1

    async def test_a_failing_handler_is_tried_again_with_delay(
        self, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        listener = await listen()
        listener.failures = [NotFound("Not yet.")]
        began = asyncio.get_running_loop().time()
        await announce()
        await listener.handled()

        assert len(listener.calls) == 2
        assert asyncio.get_running_loop().time() - began >= 0.2

    async def test_a_passing_fault_is_waited_out_beyond_all_attempts(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        before = len(await dead(house))
        listener = await listen(attempts=1)
        listener.failures = [Unavailable("Later."), Unavailable("Later.")]
        await announce()
        await listener.handled()

        assert len(listener.calls) == 3
        assert len(await dead(house)) == before

    async def test_what_keeps_failing_becomes_a_dead_letter_with_everything_it_had(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        before = len(await dead(house))
        listener = await listen(attempts=2)
        listener.failures = [ValueError("no")] * 2
        event = await announce()

        async def buried() -> bool:
            return len(await dead(house)) > before

        await until(buried)
        letter = (await dead(house))[-1]
        assert len(listener.calls) == 2
        assert re.fullmatch(r"dead\.auth\.auth_listener\.\d+", letter.subject)
        assert letter.headers["Causeloop-Failure"] == "ValueError"
        assert letter.headers["Causeloop-Subject"] == f"evt.{event.tenant}.{event.type}"
        assert letter.headers["ce-id"] == event.id
        assert letter.data == event.data

        async def finished() -> bool:
            return await pending(house) == (0, 0)

        await until(finished)

    async def test_data_that_cannot_be_read_becomes_a_dead_letter(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        before = len(await dead(house))
        listener = await listen(attempts=1)
        await announce(an_event(data=b"{}"))

        async def buried() -> bool:
            return len(await dead(house)) > before

        await until(buried)
        assert listener.calls == []

    async def test_a_dead_letter_that_is_redriven_comes_to_its_consumer_alone_and_is_removed(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        listener, other = await listen(attempts=1), await listen(SECOND)
        listener.failures = [ValueError("a secret")]
        before = len(await dead(house))
        event = await announce()

        async def buried() -> bool:
            return len(await dead(house)) > before

        await until(buried)
        await until(lambda: settled(len(other.calls) == 1))
        stream = (await house.operator()).jetstream()
        letters = [letter async for letter in operator.letters(stream) if event.id == (letter.headers or {})["ce-id"]]
        (letter,) = letters
        assert "a secret" not in "\n".join([operator.line(letter), *operator.description(letter)])
        assert operator.line(letter).endswith(f"auth_listener  tenancy.member_added  {event.tenant}  ValueError")

        await operator.redrive(stream, letter)
        with pytest.raises(SettingsError, match="There is no dead letter"):
            await operator.redrive(stream, letter)

        await until(lambda: settled(len(listener.calls) == 2))
        assert (listener.calls[1][0].tenant, listener.calls[1][2]) == (event.tenant, following.identity(event))
        await asyncio.sleep(0.2)
        assert (len(listener.calls), len(other.calls)) == (2, 1)
        assert [one.seq async for one in operator.letters(stream) if one.seq == letter.seq] == []

    async def test_a_dead_letter_that_another_service_wrote_is_not_given_to_a_consumer(
        self, house: Any, bus: Connect, listen: Listen
    ) -> None:
        """P3: an event is of the service that the bus guards, also when it comes as a dead letter."""
        listener = await listen(attempts=1)
        forged = an_event()
        headers = {**event_headers(forged), "Causeloop-Subject": f"evt.{forged.tenant}.{forged.type}"}
        gateway = await bus("gateway")
        written = await gateway.jetstream().publish("dead.gateway.auth_listener.1", forged.data, headers=headers)
        stream = (await house.operator()).jetstream()

        with pytest.raises(SettingsError, match=rf"^Letter {written.seq} is no event that .* since gateway wrote it"):
            await operator.redrive(stream, await operator.find(stream, written.seq))

        await asyncio.sleep(0.2)
        assert listener.calls == []
        await stream.purge_stream("DEAD", subject="dead.gateway.>")

    async def test_a_dead_letter_that_nobody_can_handle_is_dropped_alone(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        before = len(await dead(house))
        (await listen(attempts=1)).failures = [ValueError("no"), ValueError("no")]
        for _ in range(2):
            await announce()

        async def buried() -> bool:
            return len(await dead(house)) == before + 2

        await until(buried)
        stream = (await house.operator()).jetstream()
        *others, letter = [letter async for letter in operator.letters(stream)]
        await operator.drop(stream, letter)
        assert [one.seq async for one in operator.letters(stream)] == [one.seq for one in others]

    async def test_two_consumers_that_fail_for_one_event_leave_two_dead_letters(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        before = len(await dead(house))
        for consumer in (LISTENER, SECOND):
            (await listen(consumer, attempts=1)).failures = [ValueError("no")]
        event = await announce()

        async def both() -> bool:
            return len(await dead(house)) == before + 2

        await until(both)
        letters = (await dead(house))[-2:]
        assert {letter.subject.split(".")[2] for letter in letters} == {"auth_listener", "auth_second"}
        assert {letter.headers["ce-id"] for letter in letters} == {event.id}

    async def test_an_outage_of_a_day_does_not_break_the_delay(self) -> None:
        naks: list[float] = []

        async def wait(ctx: AuthContext, event: MemberAdded, event_id: UUID) -> None:
            raise Unavailable("Later.")

        async def nak(delay: float) -> None:
            naks.append(delay)

        router = EventRouter(LISTENER, {MemberAdded: wait})
        router._bus = SimpleNamespace(tracer=telemetry.UNTRACED)  # type: ignore[assignment]
        raw = arrived(an_event())
        for tries in (1, 2, 10, 5_000):
            raw.metadata, raw.nak = SimpleNamespace(num_delivered=tries), nak
            await router._receive(SimpleNamespace(raw_message=raw))  # type: ignore[arg-type]

        assert naks == [0.2, 0.4, 30, 30]


class TestOthers:
    """One service's credential, with messages that are meant to stop a follower, or to have it pass over an event."""

    @pytest.mark.parametrize(
        "block",
        [
            b"NATS/1.0\r\nNats-Expected-Stream: EVENTS\r\n\r\n",
            b"NATS/1.0\r\na(b: c\r\n\r\n",
            b"NATS/1.0\r\nx: " + b"\xff" * 60_000 + b"\r\n\r\n",
            b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        ],
        ids=["steers the stream", "is no header", "grows", "is a status"],
    )
    async def test_a_message_whose_headers_are_odd_becomes_a_letter(
        self, house: Any, bus: Connect, listen: Listen, announce: Callable[..., Awaitable[Announced]], block: bytes
    ) -> None:
        """P2: it does not come again for ever, with the follower not ready and its places taken."""
        before = len(await dead(house))
        listener = await listen(attempts=1)
        tenancy, data = await bus("tenancy"), b"x" * (40_000 if len(block) > 50_000 else 100_000)
        for subject in (f"evt.{ids.new('ws')}".encode(), b"evt." + b"\xff" * 9000):
            head = b"HPUB %s.tenancy.member_added %d %d\r\n" % (subject, len(block), len(block) + len(data))
            await tenancy.client._send_command(b"".join((head, block, data, b"\r\n")))
        await tenancy.flush()

        async def buried() -> bool:
            return len(await dead(house)) == before + 2

        await until(buried)
        await announce()
        await listener.handled()

        async def acknowledged() -> bool:
            return await pending(house) == (0, 0)

        await until(acknowledged)

    async def test_a_letter_is_kept_whoever_published_first_under_some_id(
        self, house: Any, bus: Connect, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        """P3: the stream drops no letter as a duplicate, nor one that is given back."""
        listener = await listen(attempts=1)
        listener.failures = [ValueError("no")] * 2
        stream, thief = (await house.operator()).jetstream(), (await bus("gateway")).jetstream()
        number = (await stream.stream_info("EVENTS")).state.last_seq
        for ahead in range(1, 20):
            headers = {"Nats-Msg-Id": f"{LISTENER.name}/{number + ahead}"}
            await thief.publish(f"dead.gateway.x.{ahead}", b"", headers=headers)
        before = len(await dead(house))
        event = await announce()

        async def buried() -> bool:
            return len(await dead(house)) == before + 1

        await until(buried)
        letter = (await dead(house))[-1]
        assert "Nats-Msg-Id" not in letter.headers
        stolen = {"Nats-Msg-Id": f"redrive/DEAD/{letter.seq}"}
        await thief.publish(f"evt.{event.tenant}.gateway.x", b"", headers=stolen)
        await operator.redrive(stream, letter)
        await until(buried)
        assert len(listener.calls) == 2

    async def test_an_id_of_one_service_is_not_that_of_another(
        self, bus: Connect, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        """P3: an event that was announced first, under the same id, by another service does not stand for it."""
        event = an_event()
        assert following.identity(event) != following.identity(event._replace(type="auth.session_ended"))
        assert following.identity(event) == following.identity(event._replace(type="tenancy.member_removed"))


class TestReplicas:
    async def test_share_the_events(self, listen: Listen, announce: Callable[..., Awaitable[Announced]]) -> None:
        replicas = [await listen(anew=number == 0) for number in range(3)]
        sent = [await announce() for _ in range(60)]

        await until(lambda: settled(sum(len(replica.calls) for replica in replicas) >= len(sent)))
        handled = [event_id for replica in replicas for _, _, event_id in replica.calls]
        assert sorted(handled) == sorted(map(following.identity, sent))
        assert all(replica.calls for replica in replicas)


class TestReadiness:
    @pytest.fixture(autouse=True)
    def _looks_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(following, "LOOK_SECONDS", 0.05)

    @staticmethod
    async def finding(listener: Listener) -> str:
        try:
            listener.bus.check()
            await listener.router.check()
        except Unavailable as error:
            return error.detail
        return "ok"

    async def becomes(self, listener: Listener, *words: str) -> None:
        async def so() -> bool:
            found = await self.finding(listener)
            return all(word in found for word in words)

        await until(so)

    async def test_comes_back_soon_after_a_fault(
        self, house: Any, listen: Listen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "LOOK_SECONDS", 60)
        await (await house.operator()).jetstream().delete_consumer("EVENTS", LISTENER.name)
        listener = await listen(anew=False)
        await self.becomes(listener, "The consumer auth_listener is missing")
        await add(house)
        await self.becomes(listener, "ok")

    async def test_needs_the_consumer_and_comes_back_with_it(
        self, house: Any, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        stream = (await house.operator()).jetstream()
        await stream.delete_consumer("EVENTS", LISTENER.name)
        listener = await listen(anew=False)
        await self.becomes(listener, "The consumer auth_listener is missing", "causeloop migrate")
        for _ in range(2):
            await add(house)
            await self.becomes(listener, "ok")
            event = await announce()
            assert await listener.handled() == following.identity(event)

            await stream.delete_consumer("EVENTS", LISTENER.name)
            await self.becomes(listener, "is missing")
            assert not listener.router._subscriber.running  # it does not pull from nothing, without a pause
        await add(house)

    async def test_ends_while_an_event_stands_still_and_not_while_there_is_none(
        self, monkeypatch: pytest.MonkeyPatch, listen: Listen, announce: Callable[..., Awaitable[Announced]]
    ) -> None:
        monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.3)
        monkeypatch.setattr(following, "_delay", lambda tries: 0.05)
        listener = await listen()
        await self.becomes(listener, "ok")
        await asyncio.sleep(0.5)
        assert await self.finding(listener) == "ok"

        listener.failures = [Unavailable("Later.")] * 10_000
        await announce()
        await self.becomes(listener, "An event has been waiting for auth_listener")

        listener.failures.clear()
        await listener.handled()
        await self.becomes(listener, "ok")


class TestLog:
    async def test_has_one_line_for_all_events_that_wait(
        self, listen: Listen, announce: Callable[..., Awaitable[Announced]], caplog: pytest.LogCaptureFixture
    ) -> None:
        """F15: each event that waited for the database wrote a line of its own, again and again."""
        listener = await listen()
        listener.failures = [Unavailable("Later.")] * 5
        for _ in range(5):
            await announce()
        for _ in range(5):
            await listener.handled()

        lines = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
        assert lines == ["an event waits for auth_listener: Later."] * 5


class TestLoss:
    async def test_dropped_messages_count_as_a_lost_connection(self, bus: Connect) -> None:
        gateway, forgotten = await bus("gateway"), []
        gateway.on_disconnect.append(lambda: forgotten.append(True))

        await gateway._failed(nats.errors.SlowConsumerError("evt.x", "", 1, None))  # type: ignore[arg-type]

        assert forgotten

    async def test_that_come_faster_than_they_are_read_are_dropped_and_not_kept(
        self, bus: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        """F15: a flood of events stood between a revocation and the gateway, and each one dropped was a line."""
        gateway, tenancy = await bus("gateway"), await bus("tenancy")
        dropped, reading = [], asyncio.Event()
        gateway.on_disconnect.append(lambda: dropped.append(True))

        async def receive(_: Announced) -> None:
            await reading.wait()

        event = an_event()
        gateway.follow(f"now.*.{event.type}", receive)
        await gateway.start()
        await gateway.flush()
        for _ in range(3000):
            await tenancy.publish(event)
        await tenancy.flush()
        await gateway.flush()

        assert 1900 < len(dropped) <= 2000
        assert len([record for record in caplog.records if "slow consumer" in record.getMessage()]) == 1
        reading.set()
