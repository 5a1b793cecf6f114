"""The stream of the log: what it says, where it goes on, and what ends it."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from causeloop_audit import app as audit
from causeloop_client.stream import Event, Reader
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import ReadStream, StreamPage
from causeloop_common.errors import Unavailable
from causeloop_common.messaging import Bus, event_headers
from causeloop_common.settings import Settings
from causeloop_dev.testing import Servers
from causeloop_gateway import app
from causeloop_gateway.limits import Limits
from causeloop_gateway.streams import registry, stream as module, wire as words
from causeloop_gateway.streams.registry import Streams
from causeloop_gateway.streams.route import StreamRoute

if TYPE_CHECKING:
    from conftest import House, Person, Wire

Announce = Callable[..., Awaitable[list[str]]]
Until = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
Connect = Callable[[], Awaitable["Wire"]]
PATIENCE = 10.0


@pytest.fixture(scope="module", autouse=True)
async def log(compose: Callable[..., Any]) -> None:
    await compose(audit.create, "audit")


@pytest.fixture(scope="module")
async def buses(servers: Servers) -> AsyncIterator[dict[str, Bus]]:
    """Of who announces."""
    made = {}
    for service in ("tenancy", "vault"):
        settings = Settings.load(service, servers.environ[service])
        made[service] = Bus(settings, settings.keyring())
        await made[service].connect()
    yield made
    for bus in made.values():
        await bus.close()


@pytest.fixture
async def announce(buses: dict[str, Bus], house: "House") -> Announce:
    """Puts events of a tenant into the stream, and waits until they are in the log: `await announce(tenant, 5)`."""

    async def publish(
        tenant: str,
        count: int = 1,
        data: bytes = b'{"version":1}',
        kind: str = "vault.secret_written",
        target: str | None = None,
    ) -> list[str]:
        made = [ids.new("evt") for _ in range(count)]
        stream = buses[kind.partition(".")[0]].jetstream()
        for one in made:
            to = target or ids.new("sec")
            event = Announced(one, tenant, kind, datetime.now(UTC), data, actor="svc_x", target=to)
            await stream.publish(f"evt.{tenant}.{kind}", data, headers=event_headers(event))

        last = ids.decode(made[-1], "evt")
        async with asyncio.timeout(PATIENCE):
            while not await house.superuser.fetchval(  # noqa: ASYNC110  the log lies elsewhere
                "SELECT 1 FROM audit.entries WHERE event_id = $1", last
            ):
                await asyncio.sleep(0.01)
        return made

    return publish


async def so(what: Callable[[], object]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not what():  # noqa: ASYNC110  what is asked has no event
            await asyncio.sleep(0.005)


class Listener:
    """A client of a stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.reader = Reader()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.raw = b""
        self.is_over = asyncio.Event()

    async def read(self) -> None:
        async for data in self.response.aiter_raw():
            self.raw += data
            for event in self.reader.feed(data):
                self.events.put_nowait(event)
        self.is_over.set()

    async def next(self, count: int = 1) -> list[Event]:
        async with asyncio.timeout(PATIENCE):
            return [await self.events.get() for _ in range(count)]

    async def opened(self) -> int:
        """The position in its first event."""
        await so(lambda: self.reader.last_id)
        return int(self.reader.last_id)

    async def last_event(self) -> dict[str, Any]:
        """The content of its last event."""
        async with asyncio.timeout(PATIENCE):
            await self.is_over.wait()
        last = [self.events.get_nowait() for _ in range(self.events.qsize())][-1]
        assert last.kind == "end", last
        content: dict[str, Any] = json.loads(last.data)
        return content


@asynccontextmanager
async def listening(
    house: "House", token: str, query: str = "", http: httpx.AsyncClient | None = None, **headers: str
) -> AsyncIterator[Listener]:
    given = {"authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with (http or house.http).stream(
        "GET", f"/v1/audit/stream{query}", headers=given, timeout=PATIENCE
    ) as response:
        assert response.status_code == 200, await response.aread()
        listener = Listener(response)
        reading = asyncio.create_task(listener.read())
        try:
            yield listener
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await reading


@pytest.fixture
async def owner(house: "House", until: Until) -> "Person":
    """Somebody whose log has what signing up put into it, and gets nothing more by itself."""
    person = await house.sign_up()

    async def settled() -> bool:
        return await size(house, person.workspace) == 2

    await until(settled)
    return person


@pytest.fixture
async def token(house: "House", owner: "Person", until: Until) -> dict[str, Any]:
    """A personal access token that may do nothing but stream; that it was made is the last entry."""
    made = await house.personal_token(owner, "audit:stream")

    async def settled() -> bool:
        return await size(house, owner.workspace) == 3

    await until(settled)
    return made


def route_of(listener: Any) -> StreamRoute:
    """What answers, inside of the gateway."""
    (found,) = (one for one in listener.config.app._routes["GET", "audit"] if isinstance(one, StreamRoute))
    return found


@pytest.fixture
async def streams(house: "House") -> Streams:
    """The gateway's, once the last test's have ended."""
    found = route_of(house.listener)._streams
    await so(lambda: not (found._open))
    return found


async def size(house: "House", tenant: str) -> int:
    count = await house.superuser.fetchval(
        "SELECT size FROM audit.heads WHERE workspace_id = $1", ids.tenant_uuid(tenant)
    )
    return int(count or 0)


async def leaves(house: "House", tenant: str) -> list[str]:
    rows = await house.superuser.fetch(
        "SELECT leaf FROM audit.entries WHERE workspace_id = $1 ORDER BY index", ids.tenant_uuid(tenant)
    )
    return [row["leaf"] for row in rows]


class TestWhatIsSaid:
    async def test_is_the_log_byte_by_byte(self, house: "House", owner: "Person", announce: Announce) -> None:
        await announce(owner.workspace, 3, '{"text":"a\\nb\\r\\u2028 – \u2028 \u0085"}'.encode())
        stored = await leaves(house, owner.workspace)

        async with listening(house, owner.token, "?from=0") as listener:
            await listener.next(len(stored))

        expected = "retry: 1000\nid: -1\n\n" + "".join(f"id: {n}\ndata: {leaf}\n\n" for n, leaf in enumerate(stored))
        assert listener.raw.decode() == expected

    async def test_has_the_headers_of_a_stream(self, house: "House", owner: "Person") -> None:
        async with listening(house, owner.token, x_request_id="mine-and-mine") as listener:
            headers = listener.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-request-id"] == "mine-and-mine"
        assert "content-length" not in headers

    async def test_an_entry_that_retention_removed_is_told_by_its_hash(
        self, house: "House", owner: "Person", token: dict[str, Any]
    ) -> None:
        where = "workspace_id = $1 AND index = 1"
        key = ids.tenant_uuid(owner.workspace)
        leaf_hash = await house.superuser.fetchval(f"SELECT leaf_hash FROM audit.entries WHERE {where}", key)
        await house.superuser.execute(f"UPDATE audit.entries SET leaf = NULL WHERE {where}", key)

        async with listening(house, token["token"], "?from=0") as listener:
            before, pruned, after = await listener.next(3)

        assert [e.kind for e in (before, pruned, after)] == ["message", "pruned", "message"]
        assert (pruned.id, json.loads(pruned.data)) == ("1", {"index": 1, "leaf_hash": leaf_hash.hex()})

    async def test_goes_on_with_what_arrives_and_soon(
        self, house: "House", owner: "Person", announce: Announce
    ) -> None:
        await announce(owner.workspace)
        async with listening(house, owner.token) as listener:
            position = await listener.opened()
            assert position == await size(house, owner.workspace) - 1
            for number in range(1, 4):
                began = time.monotonic()
                (made,) = await announce(owner.workspace)
                (event,) = await listener.next()
                assert (int(event.id), json.loads(event.data)["id"]) == (position + number, made)
                assert time.monotonic() - began < module.POLL_SECONDS / 2

    async def test_goes_on_though_nobody_told_that_the_log_grew(
        self, house: "House", owner: "Person", announce: Announce, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "POLL_SECONDS", 0.2)
        monkeypatch.setattr(module.Stream, "grew", lambda *_: None)
        async with listening(house, owner.token) as listener:
            await listener.opened()
            (made,) = await announce(owner.workspace)
            (event,) = await listener.next()
            assert json.loads(event.data)["id"] == made

    @pytest.mark.alone
    async def test_in_silence_is_a_heartbeat(
        self, house: "House", owner: "Person", token: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.1)
        async with listening(house, token["token"]) as listener:
            await listener.opened()
            await asyncio.sleep(0.45)
            beats = listener.raw.count(b": heartbeat\n\n")
            assert 3 <= beats <= 5
            assert listener.events.empty()

    async def test_large_entries_come_whole_and_in_pieces_that_are_small(
        self, house: "House", owner: "Person", announce: Announce, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[int] = []
        write = module.Stream._write

        async def seen(self: module.Stream, chunk: bytes) -> None:
            written.append(len(chunk))
            await write(self, chunk)

        monkeypatch.setattr(module.Stream, "_write", seen)
        await announce(owner.workspace, 40, json.dumps({"text": "x" * 20_000}).encode())
        async with listening(house, owner.token, "?from=0") as listener:
            events = await listener.next(await size(house, owner.workspace))
        assert [event.data for event in events] == await leaves(house, owner.workspace)
        assert max(written) <= module.CHUNK_BYTES


class TestWhereItBegins:
    async def test_the_last_id_goes_before_the_query(
        self, house: "House", owner: "Person", token: dict[str, Any]
    ) -> None:
        async with listening(house, token["token"], "?from=2", last_event_id="0") as listener:
            (event,) = await listener.next()
            assert event.id == "1"

    async def test_the_position_before_the_first_entry_is_minus_one(
        self, house: "House", token: dict[str, Any]
    ) -> None:
        async with listening(house, token["token"], last_event_id="-1") as listener:
            (event,) = await listener.next()
            assert event.id == "0"

    async def test_who_was_cut_off_before_anything_came_resumes_exactly(
        self, house: "House", owner: "Person", announce: Announce
    ) -> None:
        async with listening(house, owner.token) as listener:
            position = await listener.opened()
        (made,) = await announce(owner.workspace)
        async with listening(house, owner.token, last_event_id=str(position)) as listener:
            (event,) = await listener.next()
            assert json.loads(event.data)["id"] == made

    @pytest.mark.parametrize("beyond", [0, 1, 10_000])
    async def test_a_last_id_that_this_log_never_had_is_refused(
        self, house: "House", owner: "Person", token: dict[str, Any], beyond: int
    ) -> None:
        position = {"last-event-id": str(await size(house, owner.workspace) + beyond)}
        problem = await house.refused(409, "conflict", "GET", "/audit/stream", token["token"], headers=position)
        assert "was restored to an earlier state" in problem["detail"]

    @pytest.mark.parametrize("given", ["", "x", "-2", "1.0", "+1", "1" * 17, "9007199254740992", "٣"])
    async def test_a_last_id_that_is_none_is_refused(self, house: "House", token: dict[str, Any], given: str) -> None:
        headers = [(b"authorization", f"Bearer {token['token']}".encode()), (b"last-event-id", given.encode())]
        answer = await house.http.get("/v1/audit/stream", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")

    @pytest.mark.parametrize("given", ["", "x", "-1", "1.0", "1e3", "1" * 17])
    async def test_an_index_that_is_none_is_refused(self, house: "House", token: dict[str, Any], given: str) -> None:
        problem = await house.refused(
            422, "validation_error", "GET", "/audit/stream", token["token"], params={"from": given}
        )
        assert problem["errors"] == {"from": ["is not an index of a log, a number from 0"]}

    async def test_a_parameter_it_does_not_take_is_refused_by_name(self, house: "House", token: dict[str, Any]) -> None:
        problem = await house.refused(422, "validation_error", "GET", "/audit/stream?start=0&limit=1", token["token"])
        assert set(problem["errors"]) == {"start", "limit"}

    @pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE"])
    async def test_there_is_no_other_method(self, house: "House", token: dict[str, Any], method: str) -> None:
        answer = await house.call(method, "/audit/stream", token["token"])
        assert answer.status_code == 405


class TestWhoMayNot:
    async def test_somebody_without_a_credential_is_refused(self, house: "House") -> None:
        await house.refused(401, "unauthorized", "GET", "/audit/stream")

    async def test_a_token_without_the_permission_is_refused(self, house: "House", owner: "Person") -> None:
        made = await house.personal_token(owner, "audit:read")
        problem = await house.refused(403, "forbidden", "GET", "/audit/stream", made["token"])
        assert "'audit:stream'" in problem["detail"]

    async def test_a_realm_token_is_refused(self, house: "House", owner: "Person") -> None:
        await house.refused(403, "forbidden", "GET", "/audit/stream", owner.realm_token)

    async def test_another_tenant_hears_nothing(self, house: "House", owner: "Person", announce: Announce) -> None:
        other = await house.sign_up()
        async with listening(house, other.token, "?from=0") as theirs, listening(house, owner.token, "?from=0") as ours:
            await announce(other.workspace, 2)
            await announce(owner.workspace, 3)
            heard = await ours.next(await size(house, owner.workspace))
            others = await theirs.next(await size(house, other.workspace))
        assert {json.loads(event.data)["tenant"] for event in heard} == {owner.workspace}
        assert {json.loads(event.data)["tenant"] for event in others} == {other.workspace}


class TestItsEnd:
    async def test_a_revoked_token_ends_it_at_once(
        self, house: "House", owner: "Person", token: dict[str, Any], announce: Announce
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
        self, house: "House", owner: "Person", token: dict[str, Any], announce: Announce
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
        announce: Announce,
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
                "UPDATE audit.heads SET size = 2 WHERE workspace_id = $1", ids.tenant_uuid(owner.workspace)
            )
            end = await listener.last_event()
        assert end["code"] == "conflict"
        assert end["detail"].startswith("The log has 2 entries, and this would go on at 3: ")

    async def test_a_surprise_ends_it_and_is_logged(
        self,
        house: "House",
        token: dict[str, Any],
        announce: Announce,
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


class TestHowMany:
    @pytest.mark.parametrize(
        ("limit", "said"),
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
        said: str,
    ) -> None:
        monkeypatch.setattr(registry, limit, 2)
        async with listening(house, token["token"]) as one:
            await one.opened()
            async with listening(house, token["token"]) as two:
                await two.opened()
                answer = await house.call("GET", "/audit/stream", token["token"])
                assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
                assert said in answer.json()["detail"]
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
    async def long_log(self, owner: "Person", announce: Announce) -> None:
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

    async def test_is_told_nothing_more_after_its_token_is_revoked(
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
