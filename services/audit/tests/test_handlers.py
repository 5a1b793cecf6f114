"""Audit on the bus: its commands, and the intake of every event, whatever it looks like."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from nats.js.errors import APIError

from causeloop_audit import app
from causeloop_common import ids
from causeloop_common.application import Application
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import EventPage, EventView, GetEvent, ListEvents, ReadStream
from causeloop_common.errors import Forbidden, InvalidInput, NotFound
from causeloop_common.messaging import Bus, event_headers
from causeloop_dev.testing import Servers
from causeloop_log import entry

PATIENCE = 10.0

Make = Callable[..., Announced]
Announce = Callable[..., Awaitable[None]]
Entered = Callable[[AuthContext, int], Awaitable[list[EventView]]]


@pytest.fixture(scope="module")
async def audit(compose: Callable[..., Awaitable[Application]]) -> Application:
    """Audit itself: it answers, and takes in."""
    return await compose(app.create, "audit")


@pytest.fixture(scope="module")
async def gateway(servers: Servers, audit: Application) -> AsyncIterator[Bus]:
    async with servers.connected("gateway") as bus:
        yield bus


@pytest.fixture(scope="module")
async def announce(servers: Servers, audit: Application) -> AsyncIterator[Announce]:
    """Puts a message into the stream as the vault may: `await announce(event)`, or a subject of its own and headers."""
    async with servers.connected("vault") as bus:

        async def publish(event: Announced, subject: str = "", headers: dict[str, str] | None = None) -> None:
            shown = event_headers(event) if headers is None else headers
            await bus.jetstream().publish(subject or f"evt.{event.tenant}.{event.type}", event.data, headers=shown)

        yield publish


@pytest.fixture(scope="module")
def entered(gateway: Bus) -> Entered:
    """The log by index, once it has that many entries."""

    async def ask(ctx: AuthContext, count: int) -> list[EventView]:
        async with asyncio.timeout(PATIENCE):
            while True:
                page: EventPage = await gateway.call(ctx, ListEvents(order="index", limit=100))
                if len(page.data) >= count:
                    return page.data
                await asyncio.sleep(0.02)

    return ask


class TestCommands:
    async def test_list_and_get(
        self, gateway: Bus, announce: Announce, entered: Entered, workspace: AuthContext, event: Make
    ) -> None:
        one = event()
        await announce(one)

        (found,) = await entered(workspace, 1)
        assert (found.id, found.actor, found.data) == (one.id, one.actor, {"version": 1})
        assert await gateway.call(workspace, GetEvent(id=one.id)) == found

    async def test_another_tenant_finds_nothing(
        self, gateway: Bus, announce: Announce, entered: Entered, workspace: AuthContext, event: Make
    ) -> None:
        one = event()
        await announce(one)
        await entered(workspace, 1)

        other = replace(workspace, tenant=ids.new("ws"))
        assert (await gateway.call(other, ListEvents())).data == []
        with pytest.raises(NotFound, match="no such event in this workspace's log"):
            await gateway.call(other, GetEvent(id=one.id))

    @pytest.mark.parametrize("command", [ListEvents(), GetEvent(id=ids.new("evt"))], ids=lambda c: c.operation)
    async def test_without_the_permission_nothing_is_shown(
        self, gateway: Bus, as_user: Callable[..., AuthContext], command: Any
    ) -> None:
        member = as_user(ids.new("ws"), role="member")

        with pytest.raises(Forbidden, match="This needs the permission 'audit:read'"):
            await gateway.call(member, command)

    async def test_the_log_as_stored_needs_the_permission_to_stream(
        self, gateway: Bus, as_user: Callable[..., AuthContext]
    ) -> None:
        member = as_user(ids.new("ws"), role="member")

        with pytest.raises(Forbidden, match="This needs the permission 'audit:stream'"):
            await gateway.call(member, ReadStream(start=0))

    async def test_a_position_that_is_none_is_refused_by_name(self, gateway: Bus, workspace: AuthContext) -> None:
        with pytest.raises(InvalidInput) as refused:
            await gateway.call(workspace, ListEvents(position="seven"))

        assert refused.value.fields == {"position": ["is not a position of this log"]}


class TestIntake:
    async def test_many_events_are_entered_in_the_order_of_the_stream(
        self, announce: Announce, entered: Entered, workspace: AuthContext, event: Make
    ) -> None:
        batch = [event() for _ in range(60)]
        for one in batch:
            await announce(one)

        assert [entry.id for entry in await entered(workspace, 60)] == [one.id for one in batch]

    async def test_an_event_that_was_published_twice_is_entered_once(
        self, announce: Announce, entered: Entered, workspace: AuthContext, event: Make
    ) -> None:
        one, last = event(), event()
        await announce(one)
        again = event_headers(one) | {"Nats-Msg-Id": ids.new("evt")}  # as when the stream forgot the first one
        await announce(one, headers=again)
        await announce(last)

        assert [entry.id for entry in await entered(workspace, 2)] == [one.id, last.id]

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param({"headers": {}}, id="no headers"),
            pytest.param({"ce-id": "evt_1"}, id="no id"),
            pytest.param({"ce-time": "soon"}, id="no time"),
            pytest.param({"ce-time": "2026-01-02T03:04:05"}, id="no zone"),
            pytest.param({"ce-time": "0001-01-01T00:00:00+23:59"}, id="before time began"),
            pytest.param({"ce-actor": "a\x00b"}, id="what text cannot hold"),
            pytest.param({"ce-actor": "x" * 5_000}, id="what an index cannot hold"),
            pytest.param({"ce-subject": "\u00e9"}, id="not ASCII"),
            pytest.param({"data": b"\xff\xfe\x00"}, id="bytes"),
            pytest.param({"data": b""}, id="nothing"),
            pytest.param({"data": b"[1]"}, id="no object"),
            pytest.param({"data": b'{"rate":1.5}'}, id="a float"),
            pytest.param({"data": b'{"a":"\\u0000"}'}, id="a NUL"),
            pytest.param({"data": b'{"a":' * 500 + b"1" + b"}" * 500}, id="too deep"),
            pytest.param({"data": b'{"a":"%s"}' % (b"x" * 46_000)}, id="larger than a proof has room for"),
            pytest.param({"data": b'{"a":"%s"}' % (b"x" * 120_000)}, id="as large as the stream takes"),
            pytest.param({"subject": f"evt.{{}}.vault.{'x' * 3500}"}, id="an action of 3500 characters"),
            pytest.param({"subject": "evt.{}.vault.secret\u200b_revealed"}, id="an action with what is not seen"),
            pytest.param({"subject": "evt.{}.vault.Secret-Revealed"}, id="an action that is no name"),
        ],
    )
    async def test_whatever_is_no_event_is_entered_as_malformed_and_keeps_nothing_else_out(
        self,
        announce: Announce,
        entered: Entered,
        gateway: Bus,
        workspace: AuthContext,
        event: Make,
        changed: dict[str, Any],
    ) -> None:
        """P4: size and form are checked at the intake, so that stream, proof and export of the log go on."""
        odd = event(data=changed.get("data", b'{"odd":1}'))
        subject = changed.get("subject", "").format(odd.tenant)
        headers = changed.get("headers")
        if headers is None:
            headers = event_headers(odd) | {name: value for name, value in changed.items() if name.startswith("ce-")}
        await announce(odd, subject, headers)
        await announce(good := event())

        first, second = await entered(workspace, 2)
        assert first.action == "audit.malformed"
        assert (first.data or {})["sha256"] == hashlib.sha256(odd.data).hexdigest()
        assert (second.id, second.action) == (good.id, good.type)
        stream = await gateway.call(workspace, ReadStream(start=0))
        leaves = [one.leaf or "" for one in stream.entries]
        assert [entry.read(leaf.encode()).action for leaf in leaves] == [first.action, second.action]
        assert max(map(len, leaves)) < entry.LARGEST

    async def test_what_is_larger_than_any_event_does_not_enter_the_stream(
        self, announce: Announce, event: Make
    ) -> None:
        """P4: the stream refuses a message of 1 MB."""
        with pytest.raises(APIError, match="size exceeds"):
            await announce(event(data=b'{"a":"%s"}' % (b"x" * 1_000_000)))

    async def test_what_names_no_tenant_keeps_nothing_else_out(
        self, announce: Announce, entered: Entered, workspace: AuthContext, event: Make
    ) -> None:
        for tenant in ("nobody", "ws_1", ids.INSTALLATION.replace("usr_", "ws_")):
            await announce(event(), f"evt.{tenant}.vault.secret_written")
        await announce(good := event())

        assert [entry.id for entry in await entered(workspace, 1)] == [good.id]

    async def test_the_new_size_of_a_log_is_reported_once_its_entries_can_be_read(
        self, gateway: Bus, announce: Announce, workspace: AuthContext, event: Make
    ) -> None:
        shown: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()

        async def heard(message: Any) -> None:
            shown.put_nowait((message.data, (await gateway.call(workspace, ReadStream(start=0))).size))

        subscription = await gateway.subscribe(topology.head(workspace.tenant), heard)
        await gateway.flush()
        for size in (1, 2):
            await announce(event())
            async with asyncio.timeout(PATIENCE):
                assert await shown.get() == (str(size).encode(), size)
        await announce(event(tenant=ids.new("ws")))
        await subscription.unsubscribe()
        assert shown.empty()

    async def test_it_goes_on_when_its_database_connection_was_cut(
        self,
        audit: Application,
        superuser: Any,
        announce: Announce,
        entered: Entered,
        workspace: AuthContext,
        event: Make,
    ) -> None:
        await announce(first := event())
        await entered(workspace, 1)
        cut = await superuser.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'causeloop-audit-writer'"
        )
        assert cut

        await announce(second := event())
        assert [entry.id for entry in await entered(workspace, 2)] == [first.id, second.id]

        async def ready() -> bool:
            return (await audit.readiness())["intake"] == "ok"

        async with asyncio.timeout(PATIENCE):
            while not await ready():  # noqa: ASYNC110  what is asked lies outside this process
                await asyncio.sleep(0.02)
