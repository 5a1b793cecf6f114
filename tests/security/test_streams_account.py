"""What a stolen credential can do to the streams: each one's, with every reply subject that ever led further.

JetStream answers to the reply subject of a request, of a stored message, and of an acknowledgement, and some of its
requests are complete without a body: so an answer could be a purge. The body of what a pull delivers was even chosen.
Each message that a credential may publish is published with each of these subjects as its reply, on a server that
checks requests strictly, and on one that does not.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from causeloop_cli import streams
from causeloop_cli.embedded import EmbeddedNats, Janitor, nats as embedded
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import AUDIT_INTAKE, OPERATOR, SERVICES, STREAMS_API, Consumer
from causeloop_common.keys import reader_seed
from causeloop_dev.installation import Installation
from tests.support.bus import through

VICTIM = Consumer("victim", "EVENTS", "vault", ("evt.>",))
"""A second consumer, so that two services read the stream."""

TENANT = ids.new("ws")
CONSUMERS = {"audit_reader": AUDIT_INTAKE, "vault_reader": VICTIM}
CREDENTIALS = (*SERVICES, *CONSUMERS)
ROUNDS = 30
"""So often each service publishes each body: what is pulled is enough for a delivery to every subject."""
CONSUMER = {"deliver_subject": "cmd.vault.put_secret", "durable_name": "spy", "ack_policy": "none"}
BODIES: tuple[dict[str, object], ...] = (
    {},
    {"filter": ">"},
    {"seq": 1},
    {"name": "EVENTS", "subjects": ["evt.>", "cmd.>"]},
    {"stream_name": "EVENTS", "config": CONSUMER, "action": ""},
    {"batch": 10, "no_wait": True},
)
"""What a request that does harm can be: a pull also delivers the data of events, which their service chose."""

REQUESTS = (
    "STREAM.CREATE.SPY", "STREAM.UPDATE.EVENTS", "STREAM.DELETE.EVENTS", "STREAM.DELETE.DEAD", "STREAM.PURGE.EVENTS",
    "STREAM.PURGE.DEAD", "STREAM.MSG.GET.EVENTS", "STREAM.MSG.DELETE.EVENTS", "STREAM.SNAPSHOT.EVENTS",
    "STREAM.RESTORE.EVENTS", "STREAM.INFO.EVENTS", "STREAM.NAMES", "DIRECT.GET.EVENTS", "DIRECT.GET.EVENTS.evt.>",
    "CONSUMER.CREATE.EVENTS", "CONSUMER.CREATE.EVENTS.spy", "CONSUMER.DURABLE.CREATE.EVENTS.spy",
    *(
        f"CONSUMER.{request}.EVENTS.{consumer.name}"
        for request in ("DELETE", "RESET", "PAUSE", "UNPIN", "MSG.NEXT")
        for consumer in CONSUMERS.values()
    ),
    "ACCOUNT.PURGE.CAUSELOOP",
)  # fmt: skip


@dataclass
class Bus:
    """A server with all declared streams, and every service's credential."""

    server: EmbeddedNats
    seeds: dict[str, str]

    @asynccontextmanager
    async def connected(self, name: str) -> AsyncIterator[Client]:
        async def refused(_: Exception) -> None:
            """A refusal is what should happen; what happened all the same is what counts."""

        seed = self.seeds.get(name) or reader_seed(self.seeds[name.removesuffix("_reader")])
        client = await nats.connect(
            self.server.url, nkeys_seed_str=seed, inbox_prefix=topology.inbox(name), error_cb=refused
        )
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture(scope="module", params=["true", "false"], ids=["strict", "not strict"])
def config(request: pytest.FixtureRequest) -> str:
    return embedded.CONFIG.replace("jetstream {{", f"jetstream {{{{\n    strict: {request.param}")


@pytest.fixture(scope="module")
def server(config: str) -> Iterator[Bus]:
    installation = Installation.new()
    with pytest.MonkeyPatch.context() as patched, Janitor() as janitor:
        patched.setattr(topology, "CONSUMERS", tuple(CONSUMERS.values()))
        patched.setattr(embedded, "CONFIG", config)
        with EmbeddedNats(installation.nats_config(), janitor=janitor) as started:
            yield Bus(started, installation.seeds)


@pytest.fixture
async def bus(server: Bus) -> Bus:
    """The server with streams and consumers as new, with events and dead letters of each service in them."""
    async with server.connected(OPERATOR) as operator:
        for stream in topology.STREAMS:
            with contextlib.suppress(NotFoundError):
                await operator.jetstream().delete_stream(stream.name)
        await streams.declare(server.server.url, server.seeds[OPERATOR])
    for service in SERVICES:
        async with server.connected(service) as client:
            jetstream = client.jetstream(prefix=STREAMS_API)
            bodies = (b"private to %b" % service.encode(), *(json.dumps(body).encode() for body in BODIES))
            made = [await jetstream.publish_async(event(service), body) for body in bodies * ROUNDS]
            made += [await jetstream.publish_async(f"dead.{service}.x.1", body) for body in bodies]
            await asyncio.gather(*made)
    return server


def event(service: str) -> str:
    """The subject of an event of a service."""
    return f"evt.{TENANT}.{service}.happened"


def messages(name: str) -> Iterator[tuple[str, bytes]]:
    """Whatever a credential may send to JetStream, or to the server itself."""
    yield topology.USER_INFO, b""
    if (consumer := CONSUMERS.get(name)) is None:
        yield event(name), b"own"
        yield f"dead.{name}.x.1", b"own"
        yield f"{STREAMS_API}.STREAM.LIST", b""
        return
    target = f"EVENTS.{consumer.name}"
    yield f"{STREAMS_API}.CONSUMER.INFO.{target}", b""
    yield f"{STREAMS_API}.CONSUMER.MSG.NEXT.{target}", b'{"batch":%d,"no_wait":true}' % (len(BODIES) + 1)
    yield f"{STREAMS_API}.CONSUMER.RESET.{target}", b""
    for number in (1, 2, 3):
        yield f"$JS.ACK.{target}.1.{number}.{number}.0.0", b"+ACK"
        yield f"$JS.ACK.{target}.1.{number}.{number}.0.0", b"+NXT"
    yield f"{STREAMS_API}.CONSUMER.MSG.NEXT.{target}", b'{"batch":5000,"no_wait":true}'  # after that none is left
    yield f"{STREAMS_API}.CONSUMER.MSG.NEXT.{target}", b'{"batch":1,"no_wait":true}'


def targets(name: str) -> Iterator[str]:
    """Whatever a credential has no right to, as a reply subject."""
    own = CONSUMERS.get(name)
    for request in REQUESTS:
        yield f"$JS.API.{request}"
        if own is None or not request.endswith(own.name):
            yield f"{STREAMS_API}.{request}"
    for other in SERVICES:
        if other != name:
            yield event(other)
            yield f"dead.{other}.x.1"
    for other, consumer in CONSUMERS.items():
        if other != name:
            yield from (f"$JS.ACK.EVENTS.{consumer.name}.1.{n}.{n}.0.0" for n in range(1, 100, 7))


async def kept(stream: JetStreamContext, name: str) -> list[tuple[str, bytes]]:
    """All that a stream has, from its very first message on; it fails when one is missing."""
    last = (await stream.stream_info(name)).state.last_seq
    found = [await stream.get_msg(name, number) for number in range(1, last + 1)]
    return [(message.subject or "", message.data or b"") for message in found]


async def state(stream: JetStreamContext, name: str) -> dict[str, Any]:
    """How the streams are made, and how far the consumers of others are."""
    consumers = {}
    for info in await stream.consumers_info("EVENTS"):
        if CONSUMERS.get(name) is None or CONSUMERS[name].name != info.name:
            consumers[info.name] = info.config, info.delivered, info.ack_floor, info.num_ack_pending
    return {"streams": {info.config.name: info.config for info in await stream.streams_info()}, "consumers": consumers}


@pytest.mark.parametrize("name", CREDENTIALS)
class TestAStolenCredential:
    async def test_changes_no_stream_and_no_consumer_of_another_whatever_it_asks_to_be_answered_to(
        self, bus: Bus, name: str
    ) -> None:
        """P5: reply subjects of JetStream and of acknowledgements delete, purge and fill no stream of another."""
        async with bus.connected(OPERATOR) as operator, bus.connected(name) as thief:
            stream = operator.jetstream()
            for reader, consumer in CONSUMERS.items():  # deliveries that somebody else could acknowledge
                async with bus.connected(reader) as client:
                    inbox = await client.subscribe(f"{topology.inbox(reader)}.x", max_msgs=3)
                    pull = f"{STREAMS_API}.CONSUMER.MSG.NEXT.EVENTS.{consumer.name}"
                    await client.publish(pull, b'{"batch":3,"no_wait":true}', inbox.subject)
                    assert [await inbox.next_msg(5) for _ in range(3)]
            before = await state(stream, name)
            events, letters = [await kept(stream, kind) for kind in ("EVENTS", "DEAD")]

            for subject, body in messages(name):
                for target in targets(name):
                    await thief.publish(subject, body, reply=target)
            for target in targets(name):
                for body in (b"", *(json.dumps(body).encode() for body in BODIES)):
                    await thief.publish(target, body, reply=f"{topology.inbox(name)}.x")
            await through(thief, operator)

            assert await state(stream, name) == before
            for kind, had in (("EVENTS", events), ("DEAD", letters)):
                has = await kept(stream, kind)
                assert has[: len(had)] == had
                assert all(f".{name}." in subject for subject, _ in has[len(had) :])

    async def test_writes_nowhere_by_answering_what_it_asked_itself(self, bus: Bus, name: str) -> None:
        """P5: a right to answer, once, whatever reply subject a message has, would be one to publish anything."""
        rights = topology.permissions(name)
        own = [subject.replace("*", TENANT, 1).replace(">", "x") for subject in rights.publish]
        forbidden = [target for target in targets(name) if target.startswith(("evt.", "dead."))]
        async with bus.connected(OPERATOR) as operator, bus.connected(name) as thief:
            stream = operator.jetstream()
            had = {kind.name: len(await kept(stream, kind.name)) for kind in topology.STREAMS}

            async def answer(message: Msg) -> None:
                if message.reply in forbidden:
                    await thief.publish(message.reply, b"forged")

            for pattern in rights.subscribe:
                await thief.subscribe(pattern, cb=answer)
            for subject in own:
                for target in forbidden:
                    await thief.publish(subject, b"own", reply=target)
            await through(thief, operator)
            await through(thief, operator)

            for kind, count in had.items():
                assert b"forged" not in [data for _, data in (await kept(stream, kind))[count:]]

    async def test_reads_nothing_but_what_its_own_consumer_delivers(self, bus: Bus, name: str) -> None:
        """P5: no request, whatever its reply subject, leads to the data of others."""
        inbox = f"{topology.inbox(name)}.stolen"
        async with bus.connected(name) as thief:
            answers = await thief.subscribe(inbox)
            subjects = [*targets(name), *(subject for subject, _ in messages(name) if "MSG.NEXT" not in subject)]
            for subject in subjects:
                for body in (b"", *(json.dumps(body).encode() for body in (*BODIES, {"subjects_filter": ">"}))):
                    await thief.publish(subject, body, reply=inbox)
            await through(thief)
            read = b"".join([(await answers.next_msg(1)).data for _ in range(answers.pending_msgs)])
        assert b"private to" not in read
        assert TENANT.encode() not in read
