"""How many streams of the log are open, and how much is read for one."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import ReadStream, StreamPage
from causeloop_gateway.streams import registry, stream as module
from causeloop_gateway.streams.registry import Streams
from tests.support.listeners import PATIENCE, listening, so

if TYPE_CHECKING:
    from conftest import Announce, House, Person, Wire

Connect = Callable[[], Awaitable["Wire"]]
pytestmark = pytest.mark.usefixtures("log")


class TestHowMany:
    @pytest.mark.parametrize(
        ("limit", "shown"),
        [
            ("OF_PRINCIPAL", "2 streams of yours"),
            ("OF_WORKSPACE", "of this workspace"),
            ("OF_PROCESS", "of this gateway"),
        ],
    )
    async def test_are_open_at_once_is_limited(
        self,
        house: "House",
        token: dict[str, Any],
        streams: Streams,
        monkeypatch: pytest.MonkeyPatch,
        limit: str,
        shown: str,
    ) -> None:
        monkeypatch.setattr(registry, limit, 2)
        async with listening(house, token["token"]) as one:
            await one.opened()
            async with listening(house, token["token"]) as two:
                await two.opened()
                answer = await house.call("GET", "/audit/stream", token["token"])
                assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
                assert shown in answer.json()["detail"]
                assert answer.headers["retry-after"] == "30"
            await so(lambda: len(streams._open) < 2)
            async with listening(house, token["token"]) as again:
                await again.opened()

    async def test_read_at_once_is_limited_and_the_others_wait_for_their_turn(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running, most = 0, 0

        async def call(*_: Any) -> StreamPage:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return StreamPage(entries=[], size=0)

        monkeypatch.setattr(streams._bus, "call", call)
        ctx = AuthContext(tenant=ids.new("ws"), principal=ids.new("usr"), permissions=frozenset())
        pages = await asyncio.gather(*(streams.read(ctx, ReadStream(start=0)) for _ in range(100)))
        assert (len(pages), most) == (100, registry.READS)


@pytest.mark.slow
class TestAClientThatDoesNotRead:
    """The log is larger than what the system holds for a socket."""

    @pytest.fixture
    async def long_log(self, owner: "Person", announce: "Announce") -> None:
        data = json.dumps({"text": "x" * 40_000}).encode()
        await announce(owner.workspace, 600, data)

    def ask(self, token: str) -> bytes:
        return f"GET /v1/audit/stream?from=0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode()

    async def stalled(self, house: "House", read: list[int]) -> Any:
        """The connection, once nothing more is read from the log for it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                before = len(read)
                await asyncio.sleep(0.2)
                if before and len(read) == before:
                    break
        connections: set[Any] = house.listener.server_state.connections
        (connection,) = (one for one in connections if one.flow.write_paused)
        return connection

    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The pages that were read, by where they begin."""
        begun: list[int] = []
        ask = module.Stream._read

        async def counted(self: module.Stream, start: int) -> Any:
            begun.append(start)
            return await ask(self, start)

        monkeypatch.setattr(module.Stream, "_read", counted)
        return begun

    async def test_is_read_for_no_further_than_it_took(
        self, house: "House", wire: Connect, token: dict[str, Any], long_log: None, read: list[int]
    ) -> None:
        connection = await wire()
        await connection.send(self.ask(token["token"]))
        protocol = await self.stalled(house, read)
        assert read[-1] < 450  # entries of 40 000 bytes, most of them in the buffers of the client's own system
        assert protocol.transport.get_write_buffer_size() <= 3 * module.CHUNK_BYTES
        unread = protocol.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert unread <= 4 * module.CHUNK_BYTES

    async def test_is_cut(
        self,
        house: "House",
        wire: Connect,
        token: dict[str, Any],
        long_log: None,
        read: list[int],
        streams: Streams,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(module, "SLOW_SECONDS", 0.5)
        connection = await wire()
        await connection.send(self.ask(token["token"]))
        await so(lambda: streams._open)
        await so(lambda: not streams._open)
        came = b""
        with suppress(ConnectionResetError):
            while data := await connection.reader.read(1 << 20):
                came += data
        assert b"event: end" not in came
        assert read[-1] < 600

    async def test_is_sent_nothing_more_after_its_token_is_revoked(
        self,
        house: "House",
        owner: "Person",
        wire: Connect,
        token: dict[str, Any],
        long_log: None,
        read: list[int],
        streams: Streams,
    ) -> None:
        connection = await wire()
        await connection.send(self.ask(token["token"]))
        await self.stalled(house, read)
        last = read[-1]
        began = time.monotonic()
        await house.body("DELETE", f"/api-tokens/{token['id']}", owner.token)
        await so(lambda: not (streams._open))
        assert time.monotonic() - began < module.END_SECONDS + 1
        assert read[-1] == last
