"""The stream of the log: its content, where it begins, and for whom."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_gateway.streams import stream as module
from tests.support.listeners import leaves, listening, size

if TYPE_CHECKING:
    from conftest import Announce, House, Person, Wire

Connect = Callable[[], Awaitable["Wire"]]
pytestmark = pytest.mark.usefixtures("log")


class TestWhatIsSaid:
    async def test_is_the_log_byte_by_byte(self, house: "House", owner: "Person", announce: "Announce") -> None:
        await announce(owner.workspace, 3, '{"text":"a\\nb\\r\\u2028 – \u2028 \u0085"}'.encode())
        stored = await leaves(house, owner.workspace)

        async with listening(house, owner.token, "?from=0") as listener:
            await listener.next(len(stored))

        expected = "retry: 1000\nid: -1\n\n" + "".join(f"id: {n}\ndata: {leaf}\n\n" for n, leaf in enumerate(stored))
        assert listener.raw.decode() == expected

    async def test_has_no_chunks_for_http_1_0(
        self, house: "House", owner: "Person", wire: Connect, announce: "Announce"
    ) -> None:
        """P9: HTTP/1.0 has no chunked coding, and its clients took the chunks' sizes for events."""
        connection = await wire()
        request = f"GET /v1/audit/stream?from=0 HTTP/1.0\r\nauthorization: Bearer {owner.token}\r\n\r\n"
        await connection.send(request.encode())
        status, headers, _ = await connection.answer()
        assert status == 200
        assert "transfer-encoding" not in headers
        assert headers["connection"] == "close"

        await announce(owner.workspace)
        stored = await leaves(house, owner.workspace)
        expected = "retry: 1000\nid: -1\n\n" + "".join(f"id: {n}\ndata: {leaf}\n\n" for n, leaf in enumerate(stored))
        async with asyncio.timeout(10):
            assert await connection.reader.readexactly(len(expected.encode())) == expected.encode()

    async def test_has_the_headers_of_a_stream(self, house: "House", owner: "Person") -> None:
        async with listening(house, owner.token, x_request_id="mine-and-mine") as listener:
            headers = listener.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-request-id"] == "mine-and-mine"
        assert "content-length" not in headers

    async def test_an_entry_that_retention_removed_is_reported_by_its_hash(
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
        self, house: "House", owner: "Person", announce: "Announce"
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

    async def test_goes_on_with_what_arrives_while_a_page_without_it_is_read(
        self, house: "House", owner: "Person", announce: "Announce", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read, grew = module.Stream._read, module.Stream.grew
        made: list[str] = []
        arrived = asyncio.Event()

        async def read_slowly(self: module.Stream, start: int | None) -> Any:
            page = await read(self, start)
            if not made:
                made.extend(await announce(owner.workspace))
                await arrived.wait()
            return page

        def grow(self: module.Stream, size: int) -> None:
            grew(self, size)
            arrived.set()

        monkeypatch.setattr(module.Stream, "_read", read_slowly)
        monkeypatch.setattr(module.Stream, "grew", grow)
        async with listening(house, owner.token) as listener:
            began = time.monotonic()
            (event,) = await listener.next()
            assert json.loads(event.data)["id"] == made[0]
            assert time.monotonic() - began < module.POLL_SECONDS / 2

    async def test_goes_on_though_nobody_published_that_the_log_grew(
        self, house: "House", owner: "Person", announce: "Announce", monkeypatch: pytest.MonkeyPatch
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
        self, house: "House", owner: "Person", announce: "Announce", monkeypatch: pytest.MonkeyPatch
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
        self, house: "House", owner: "Person", announce: "Announce"
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

    async def test_of_a_later_epoch_names_it_and_goes_on_in_no_other(
        self, house: "House", owner: "Person", announce: "Announce"
    ) -> None:
        """P6: an index of one epoch is another entry in the next, so a reader of the one before is refused."""
        await announce(owner.workspace, 2)
        key, end = ids.tenant_uuid(owner.workspace), await size(house, owner.workspace)
        later = """
            INSERT INTO audit.checkpoints (workspace_id, epoch, size, root, note) VALUES ($1, 2, 0, sha256(''), '')
            ON CONFLICT (workspace_id) DO UPDATE SET epoch = 2
        """
        await house.superuser.execute(later, key)
        try:
            async with listening(house, owner.token, "?from=0") as listener:
                events = await listener.next(end)
            assert [event.id for event in events] == [f"2/{index}" for index in range(end)]
            async with listening(house, owner.token, last_event_id="2/0") as listener:
                assert [event.id for event in await listener.next(end - 1)] == [f"2/{n}" for n in range(1, end)]
            for other in ("0", "3/0"):
                position = {"last-event-id": other}
                problem = await house.refused(409, "conflict", "GET", "/audit/stream", owner.token, headers=position)
                assert "The log is in epoch 2, and this would go on in epoch" in problem["detail"]
        finally:
            await house.superuser.execute("UPDATE audit.checkpoints SET epoch = 1 WHERE workspace_id = $1", key)

    @pytest.mark.parametrize(
        "given", ["x", "1/0", "0/0", "02/0", "2/", "/0", "2/-2", "-2", "1.0", "+1", "1" * 17, "9007199254740992", "٣"]
    )
    async def test_a_last_id_that_is_none_is_refused(self, house: "House", token: dict[str, Any], given: str) -> None:
        headers = [(b"authorization", f"Bearer {token['token']}".encode()), (b"last-event-id", given.encode())]
        answer = await house.http.get("/v1/audit/stream", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")

    @pytest.mark.parametrize("given", [""])
    async def test_a_last_id_that_is_empty_is_as_none(
        self, house: "House", owner: "Person", token: dict[str, Any], announce: "Announce", given: str
    ) -> None:
        """E32: a reader that has received nothing yet may send an empty Last-Event-ID."""
        async with listening(house, token["token"], last_event_id=given) as listener:
            (made,) = await announce(owner.workspace)
            (event,) = await listener.next()
            assert json.loads(event.data)["id"] == made

    @pytest.mark.parametrize("given", ["", "x", "-1", "1.0", "1e3", "1" * 17])
    async def test_an_index_that_is_none_is_refused(self, house: "House", token: dict[str, Any], given: str) -> None:
        problem = await house.refused(
            422, "validation_error", "GET", "/audit/stream", token["token"], params={"from": given}
        )
        assert problem["errors"] == {"from": ["is not an index of a log, a number from 0"]}

    async def test_a_parameter_it_does_not_take_is_refused_by_name(self, house: "House", token: dict[str, Any]) -> None:
        problem = await house.refused(422, "validation_error", "GET", "/audit/stream?start=0&limit=1", token["token"])
        assert set(problem["errors"]) == {"start", "limit"}

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
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

    async def test_another_tenant_hears_nothing(self, house: "House", owner: "Person", announce: "Announce") -> None:
        other = await house.sign_up()
        async with listening(house, other.token, "?from=0") as theirs, listening(house, owner.token, "?from=0") as ours:
            await announce(other.workspace, 2)
            await announce(owner.workspace, 3)
            heard = await ours.next(await size(house, owner.workspace))
            others = await theirs.next(await size(house, other.workspace))
        assert {json.loads(event.data)["tenant"] for event in heard} == {owner.workspace}
        assert {json.loads(event.data)["tenant"] for event in others} == {other.workspace}
