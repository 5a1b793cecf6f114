"""Refusals for the log: summed, bounded, and kept until they can be announced."""

from collections.abc import AsyncIterator
from contextlib import suppress

import nats
import nats.js.errors
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from causeloop_cli import streams
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.gateway import AccessDenied, SigninFailed
from causeloop_common.messaging import Bus, announced
from causeloop_common.settings import Settings
from causeloop_dev.installation import Installation
from causeloop_dev.testing import Servers, person
from causeloop_gateway.denials import Denial, Denials

SOMEBODY = ids.new("sva")


async def events(stream: JetStreamContext, subject: str) -> list[Announced]:
    """Every event of the log's stream under a subject, oldest first."""
    found, sequence = [], 1
    with suppress(nats.js.errors.NotFoundError):
        while True:
            raw = await stream.get_msg("EVENTS", seq=sequence, subject=subject, next=True)
            assert raw.seq is not None
            sequence = raw.seq + 1
            message = Msg(stream._nc, subject=raw.subject or "", data=raw.data or b"", headers=raw.headers)
            found.append(announced(message))
    return found


@pytest.fixture
async def stream(servers: Servers) -> AsyncIterator[JetStreamContext]:
    seed, inbox = servers.seeds[topology.OPERATOR], topology.inbox(topology.OPERATOR)
    client = await nats.connect(servers.nats_url, nkeys_seed_str=seed, inbox_prefix=inbox)
    yield client.jetstream()
    await client.close()


def denial(tenant: str, principal: str | None = None, operation: str = "get_secret", code: str = "forbidden") -> Denial:
    credential, behalf = ("ses_1", SOMEBODY) if principal else (None, None)
    return Denial(operation, code, tenant, principal, credential, behalf)


class TestSums:
    async def test_per_principal_operation_and_code_reach_the_log_s_stream(
        self, bus: Bus, stream: JetStreamContext
    ) -> None:
        await bus.connect()
        denials, tenant = Denials(bus), ids.new("ws")
        one, other = person(), person()
        for _ in range(3):
            denials.note(denial(tenant, one))
        denials.note(denial(tenant, other))
        denials.note(denial(tenant, one, operation="put_secret"))
        denials.note(denial(tenant, one, code="mfa_required"))
        await denials.flush()

        found = await events(stream, f"evt.*.{tenant}.gateway.access_denied")
        read = [AccessDenied.model_validate_json(event.data) for event in found]
        assert {(e.principal, e.operation, e.code, e.count) for e in read} == {
            (one, "get_secret", "forbidden", 3),
            (other, "get_secret", "forbidden", 1),
            (one, "put_secret", "forbidden", 1),
            (one, "get_secret", "mfa_required", 1),
        }
        assert len(found) == 4
        for event, denied in zip(found, read, strict=True):
            assert event[:3] == (event.id, tenant, "gateway.access_denied")
            assert (event.actor, event.target, event.credential) == (denied.principal, denied.principal, "ses_1")
            assert event.on_behalf_of == SOMEBODY
            assert denied.since <= event.occurred_at

    async def test_of_somebody_unknown_are_failed_sign_ins_of_the_installation(
        self, bus: Bus, stream: JetStreamContext
    ) -> None:
        await bus.connect()
        denials, operation = Denials(bus), f"exchange_{ids.new('x')}"
        for _ in range(2):
            denials.note(denial(ids.INSTALLATION, operation=operation, code="invalid_grant"))
        await denials.flush()

        found = await events(stream, f"evt.*.{ids.INSTALLATION}.gateway.signin_failed")
        (event,) = [event for event in found if event.target == operation]
        assert SigninFailed.model_validate_json(event.data).count == 2
        assert event.actor == "svc_gateway"

    async def test_begin_anew_once_they_are_reported(self, bus: Bus, stream: JetStreamContext) -> None:
        await bus.connect()
        denials, tenant = Denials(bus), ids.new("ws")
        for count in (2, 1):
            for _ in range(count):
                denials.note(denial(tenant, tenant))
            await denials.flush()
        await denials.flush()
        found = await events(stream, f"evt.*.{tenant}.gateway.access_denied")
        first, second = [AccessDenied.model_validate_json(event.data) for event in found]
        assert (first.count, second.count) == (2, 1)
        assert first.since < second.since

    @pytest.mark.parametrize("code", ["not_found", "validation_error", "unavailable", "conflict", "internal_error"])
    async def test_are_of_refused_acts_alone(self, bus: Bus, stream: JetStreamContext, code: str) -> None:
        await bus.connect()
        denials, tenant = Denials(bus), ids.new("ws")
        denials.note(denial(tenant, person(), code=code))
        await denials.flush()
        assert await events(stream, f"evt.*.{tenant}.gateway.access_denied") == []


class TestBounds:
    async def test_what_is_too_much_to_tell_apart_is_counted_together(self, bus: Bus) -> None:
        denials = Denials(bus)
        for number in range(10_050):
            denials.note(denial(ids.INSTALLATION, operation=str(number), code="unauthorized"))
        denials.note(denial(ids.INSTALLATION, operation="7", code="unauthorized"))

        assert len(denials._counts) == 10_001
        rest = denial(ids.INSTALLATION, operation="more than are counted apart", code="unauthorized")
        assert denials._counts[rest] == 50
        assert denials._counts[denial(ids.INSTALLATION, operation="7", code="unauthorized")] == 2


class TestOutage:
    async def test_while_the_bus_is_away_the_sums_wait_and_grow(self, bus: Bus, stream: JetStreamContext) -> None:
        denials, tenant, somebody = Denials(bus), ids.new("ws"), person()
        for _ in range(3):  # three minutes without a bus
            denials.note(denial(tenant, somebody))
            await denials.flush()
        await bus.connect()
        await denials.flush()

        (event,) = await events(stream, f"evt.*.{tenant}.gateway.access_denied")
        denied = AccessDenied.model_validate_json(event.data)
        assert denied.count == 3

    async def test_while_the_stream_is_away_they_wait_too(self) -> None:
        installation, tenant, somebody = Installation.new(), ids.new("ws"), person()
        operator = installation.seeds[topology.OPERATOR]
        with Janitor() as janitor, EmbeddedNats(installation.nats_config(), janitor=janitor) as server:
            environ = installation.environ("gateway", "postgresql:///nowhere", server.url)
            settings = Settings.load("gateway", environ)
            bus = Bus(settings, settings.keyring())
            await bus.connect()
            denials = Denials(bus)
            denials.note(denial(tenant, somebody))
            await denials.flush()

            await streams.declare(server.url, operator)
            await denials.flush()
            client = await nats.connect(
                server.url, nkeys_seed_str=operator, inbox_prefix=topology.inbox(topology.OPERATOR)
            )
            found = await events(client.jetstream(), f"evt.*.{tenant}.gateway.access_denied")
            await client.close()
            await bus.close()
        assert len(found) == 1
