"""The end of a stream of the log, whatever causes it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import ReadStream, StreamPage
from causeloop_common.errors import Unavailable
from causeloop_dev.testing import Servers
from causeloop_gateway import app
from causeloop_gateway.limits import Limits
from causeloop_gateway.streams import stream as module, wire as words
from causeloop_gateway.streams.registry import Streams
from tests.support.listeners import listening, route_of, so

if TYPE_CHECKING:
    from conftest import Announce, House, Person, Wire

Connect = Callable[[], Awaitable["Wire"]]
pytestmark = pytest.mark.usefixtures("log")


class TestItsEnd:
    async def test_a_revoked_token_ends_it_at_once(
        self, house: "House", owner: "Person", token: dict[str, Any], announce: "Announce"
    ) -> None:
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            began = time.monotonic()
            assert (await house.call("DELETE", f"/api-tokens/{token['id']}", owner.token)).status_code == 204
            end = await listener.last_event()
            assert time.monotonic() - began < 1
        assert end["code"] == "unauthorized"
        assert listener.response.headers["connection"] == "close"

    async def test_of_a_role_that_may_no_longer_ends_it(
        self, house: "House", owner: "Person", token: dict[str, Any], announce: "Announce"
    ) -> None:
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            await house.set_role(owner, "viewer")
            await announce(owner.workspace, kind="tenancy.member_added", target=owner.id)
            end = await listener.last_event()
        assert end["code"] == "forbidden"
        assert "'audit:stream'" in end["detail"]

    async def test_that_nobody_announced_ends_it_when_the_memory_is_over(
        self, house: "House", token: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            await house.superuser.execute("SET session_replication_role = replica")
            await house.superuser.execute(
                "UPDATE auth.tokens SET revoked_at = now() WHERE id = $1", ids.decode(token["id"], "tok")
            )
            await house.superuser.execute("RESET session_replication_role")
            await asyncio.sleep(0.3)
            assert not listener.is_over.is_set()
            house.application.memories.clear()  # as time does after 30 s
            assert (await listener.last_event())["code"] == "unauthorized"

    @pytest.mark.alone
    async def test_the_token_s_expiry_ends_it_exactly_then(self, house: "House", token: dict[str, Any]) -> None:
        ends_at = datetime.now(UTC) + timedelta(seconds=1)
        await house.superuser.execute("SET session_replication_role = replica")
        await house.superuser.execute(
            "UPDATE auth.tokens SET expires_at = $2 WHERE id = $1", ids.decode(token["id"], "tok"), ends_at
        )
        await house.superuser.execute("RESET session_replication_role")
        house.application.memories.clear()
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            end = await listener.last_event()
            late = (datetime.now(UTC) - ends_at).total_seconds()
        assert end["code"] == "unauthorized"
        assert 0 <= late < 0.5

    async def test_a_client_that_leaves_leaves_nothing_behind(
        self, house: "House", owner: "Person", token: dict[str, Any], streams: Streams
    ) -> None:
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            assert len(streams._open) == 1
            assert set(streams._heads) == {owner.workspace}
        await so(lambda: not (streams._open or streams._heads or streams._found))

    async def test_of_a_client_that_left_before_it_began_is_no_failure(
        self, wire: Connect, token: dict[str, Any], streams: Streams, caplog: pytest.LogCaptureFixture
    ) -> None:
        for seconds in (0, 0, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02):
            connection = await wire()
            await connection.send(
                f"GET /v1/audit/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token['token']}\r\n\r\n".encode()
            )
            await asyncio.sleep(seconds)
            connection.writer.transport.abort()
        await asyncio.sleep(0.2)
        await so(lambda: not streams._open)
        assert caplog.text == ""

    async def test_the_loss_of_the_bus_ends_it(self, house: "House", token: dict[str, Any], streams: Streams) -> None:
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            for react in house.application.bus.on_disconnect:
                react()
            end = await listener.last_event()
        assert end["code"] == "unavailable"

    async def test_its_beginning_is_counted_by_the_rate_limits_and_its_pages_are_not(
        self,
        house: "House",
        token: dict[str, Any],
        announce: "Announce",
        owner: "Person",
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        once_a_minute = Limits(1 / 60).of(ReadStream, signed_in=True)
        monkeypatch.setattr(route_of(house.listener), "_limits", once_a_minute)
        async with listening(house, token["token"]) as stream:
            await stream.opened()
            for _ in range(10):
                await announce(owner.workspace)
                await stream.next()
        await house.refused(429, "rate_limited", "GET", "/audit/stream", token["token"])

    async def test_a_gateway_that_stops_ends_it_and_takes_no_other(
        self, house: "House", servers: Servers, token: dict[str, Any]
    ) -> None:
        application = app.create({**servers.environ["gateway"], "PORT": "0"})
        await application.start()
        listener = application.listener()
        assert listener is not None
        serving = asyncio.create_task(listener.serve())
        await so(lambda: listener.started)
        port = listener.servers[0].sockets[0].getsockname()[1]
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
            listening(house, token["token"], http=http) as stream,
        ):
            await stream.opened()
            began = time.monotonic()
            listener.should_exit = True
            end = await stream.last_event()
            await serving
            assert time.monotonic() - began < 2
        await application.stop()
        assert end["code"] == "unavailable"
        with pytest.raises(Unavailable, match="The gateway is stopping"):
            route_of(listener)._streams._admit(None)  # type: ignore[arg-type]

    async def test_the_log_s_service_that_does_not_come_back_ends_it(
        self, house: "House", token: dict[str, Any], streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
        monkeypatch.setattr(module, "_PATIENCE_SECONDS", (0.01, 0.02))
        asked: list[ReadStream] = []

        async def gone(_: AuthContext, question: ReadStream) -> StreamPage:
            asked.append(question)
            raise Unavailable("The audit service is not running.")

        async with listening(house, token["token"]) as listener:
            await listener.opened()
            monkeypatch.setattr(streams._bus, "call", gone)
            end = await listener.last_event()
        assert end == {"code": "unavailable", "detail": "The audit service is not running."}
        assert len(asked) == 3

    async def test_a_log_that_became_shorter_ends_it(
        self, house: "House", owner: "Person", token: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            await house.superuser.execute(
                "UPDATE audit.heads SET size = 3 WHERE workspace_id = $1", ids.tenant_uuid(owner.workspace)
            )
            end = await listener.last_event()
        assert end["code"] == "conflict"
        assert end["detail"].startswith("The log has 3 entries, and this would go on at 4: ")

    async def test_a_surprise_ends_it_and_is_logged(
        self,
        house: "House",
        token: dict[str, Any],
        announce: "Announce",
        owner: "Person",
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            monkeypatch.setattr(words, "events", lambda _: 1 / 0)
            await announce(owner.workspace)
            end = await listener.last_event()
        assert end["code"] == "internal_error"
        assert "a stream failed" in caplog.text
