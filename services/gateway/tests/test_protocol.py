"""HTTP/1.1 over a real socket: bounds on what comes before a body, and answers for what is not HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import orjson
import pytest

from causeloop_gateway import protocol

if TYPE_CHECKING:
    from conftest import House, Wire

Connect = Callable[[], Awaitable["Wire"]]

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
TOO_LARGE = "The request's headers are larger than 32768 bytes. Send less."


def head(size: int, *, end: bytes = b"\r\n\r\n") -> bytes:
    """A head whose one long header has this many bytes."""
    return b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * size + end


async def refused(wire: "Wire", status: int, code: str, detail: str) -> None:
    answered, headers, body = await wire.answer()
    problem = json.loads(body)
    assert (answered, problem["code"], problem["detail"]) == (status, code, detail)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert await wire.is_closed()


class TestHeaders:
    async def test_below_the_limit_are_taken(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(head(32_000))
        assert (await connection.answer())[0] == 200

    @pytest.mark.parametrize(
        "data",
        [
            head(33_000),
            head(1_000_000),
            b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x-a: b\r\n" * 5000 + b"\r\n",
            b"GET /health?" + b"a" * 33_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /health HTTP/1.1\r\n" + b"n" * 33_000 + b": v\r\n\r\n",
        ],
        ids=["one", "huge", "many", "address", "name"],
    )
    async def test_that_are_too_large_are_refused(self, wire: Connect, data: bytes) -> None:
        connection = await wire()
        await connection.send(data)
        await refused(connection, 431, "headers_too_large", TOO_LARGE)

    async def test_that_never_end_are_refused_before_they_do(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(head(1000, end=b""))
        await connection.insist(b"a" * 1000)
        await refused(connection, 431, "headers_too_large", TOO_LARGE)

    async def test_of_a_later_request_are_bounded_too(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(HEALTH)
        assert (await connection.answer())[0] == 200
        await connection.send(head(33_000))
        await refused(connection, 431, "headers_too_large", TOO_LARGE)


CHUNKED = (
    b"POST /v1/auth/refresh HTTP/1.1\r\nhost: x\r\nx-request-id: of-the-head\r\ntransfer-encoding: chunked\r\n\r\n"
)


class TestTrailers:
    async def test_are_no_headers(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(CHUNKED + b"2\r\n{}\r\n0\r\nx-request-id: of-the-trailer\r\n\r\n")
        status, headers, _ = await connection.answer()
        assert (status, headers["x-request-id"]) == (422, "of-the-head")

    @pytest.mark.parametrize("line", [b"x-t: v\r\n" * 125, b"a" * 1000], ids=["many", "one"])
    async def test_that_never_end_are_refused_before_they_do(self, wire: Connect, line: bytes) -> None:
        connection = await wire()
        await connection.send(CHUNKED + b"2\r\n{}\r\n0\r\nx-first: ")
        await connection.insist(line)
        await refused(connection, 431, "headers_too_large", TOO_LARGE)

    async def test_a_body_in_many_chunks_is_none(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(CHUNKED)
        for _ in range(100):  # more than a head may have, less than a body without a credential
            await connection.send(b"400\r\n" + b" " * 0x400 + b"\r\n")
        await connection.send(b"2\r\n{}\r\n0\r\n\r\n")
        assert (await connection.answer())[0] == 422


class TestAnAnswer:
    async def test_before_the_whole_body_came_says_that_it_ends_the_connection(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(b"PUT /v1/secrets/a HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n")
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == (401, "close")
        assert await connection.is_closed()

    async def test_after_the_whole_request_leaves_it_open(self, wire: Connect) -> None:
        connection = await wire()
        for _ in range(2):
            await connection.send(b"PUT /v1/secrets/a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            status, headers, body = await connection.answer()
            assert status == 401
            assert "connection" not in headers
            assert len(body) == int(headers["content-length"])

    async def test_ends_the_connection_of_who_asked_for_that(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(b"PUT /v1/secrets/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == (401, "close")
        assert await connection.is_closed()


CHUNKED_BODY = b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


class TestAnotherProtocol:
    @pytest.mark.parametrize("parts", [1, 2, 400], ids=["whole", "in two", "byte by byte"])
    @pytest.mark.parametrize("body", [b"content-length: 2\r\n\r\n{}", CHUNKED_BODY], ids=["length", "chunked"])
    async def test_that_is_offered_is_passed_over_and_the_body_is_the_body(
        self, wire: Connect, body: bytes, parts: int
    ) -> None:
        """E17: an offer to speak HTTP/2, as curl and Java send it, is answered in HTTP/1.1."""
        connection = await wire()
        request = b"POST /v1/auth/refresh HTTP/1.1\r\nhost: x\r\n" + OFFER + body
        step = -(-len(request) // parts)
        for start in range(0, len(request), step):
            await connection.send(request[start : start + step])
            if parts < 400:
                await asyncio.sleep(0.01)
        status, _, answer = await connection.answer()
        assert (status, list(orjson.loads(answer)["errors"])) == (422, ["refresh_token"])
        await connection.send(HEALTH)
        assert (await connection.answer())[0] == 200

    @pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b"h2c, websocket"])
    async def test_that_is_offered_without_a_body_is_passed_over_too(self, wire: Connect, protocol: bytes) -> None:
        connection = await wire()
        asked = HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: " + protocol + b"\r\n\r\n")
        await connection.send(asked + HEALTH + asked)
        assert [(await connection.answer())[0] for _ in range(3)] == [200, 200, 200]

    async def test_that_is_offered_does_not_make_a_large_head_a_small_one(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(HEALTH[:-2] + OFFER + b"x: " + b"x" * 40_000 + b"\r\n\r\n")
        await refused(connection, 431, "headers_too_large", TOO_LARGE)

    async def test_that_is_offered_again_and_again_is_refused(self, wire: Connect) -> None:
        connection = await wire()
        await connection.insist((HEALTH[:-2] + OFFER + b"\r\n") * 600)
        detail = "These requests offer another protocol again and again. Send HTTP/1.1 alone."
        await refused(connection, 400, "malformed", detail)

    async def test_of_a_proxy_is_refused(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n" + HEALTH)
        await refused(connection, 400, "malformed", "CONNECT is not taken: this is no proxy.")


class TestSlowClients:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.15)

    @pytest.mark.parametrize("begun", [b"", b"GET /hea", HEALTH[:-2]], ids=["nothing", "a word", "a line too few"])
    async def test_that_do_not_finish_a_head_are_left(self, wire: Connect, begun: bytes) -> None:
        connection = await wire()
        await connection.send(begun)
        assert await connection.is_closed()

    async def test_that_begin_a_second_head_and_do_not_finish_it_are_left(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(HEALTH)
        assert (await connection.answer())[0] == 200
        await connection.send(HEALTH[:-2])
        assert await connection.is_closed()

    async def test_may_take_longer_between_requests(self, wire: Connect) -> None:
        first, second = await wire(), await wire()
        await first.send(HEALTH)
        assert (await first.answer())[0] == 200
        assert await second.is_closed()  # the time for a head has passed, and `first` is idle all the while
        await first.send(HEALTH)
        assert (await first.answer())[0] == 200


class TestWhatIsNotHttp:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
        ids=["tls", "ssh", "a word", "no colon", "no number", "two lengths", "length and chunks"],
    )
    async def test_is_refused_and_the_connection_ends(self, wire: Connect, data: bytes) -> None:
        connection = await wire()
        await connection.send(data)
        await refused(connection, 400, "malformed", "This is not an HTTP/1.1 request.")

    async def test_after_a_good_request_ends_the_connection_too(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(HEALTH)
        assert (await connection.answer())[0] == 200
        await connection.send(b"\x00\x01\x02\r\n\r\n")
        await refused(connection, 400, "malformed", "This is not an HTTP/1.1 request.")


class TestKeepAlive:
    async def test_many_requests_go_over_one_connection(self, wire: Connect) -> None:
        connection = await wire()
        for number in range(20):
            await connection.send(
                f"GET /v1/workspace HTTP/1.1\r\nhost: x\r\nx-request-id: request-{number:03}\r\n\r\n".encode()
            )
            status, headers, _ = await connection.answer()
            assert (status, headers["x-request-id"]) == (401, f"request-{number:03}")

    async def test_requests_sent_ahead_are_answered_in_their_order(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(
            b"".join(
                f"GET /v1/workspace HTTP/1.1\r\nhost: x\r\nx-request-id: request-{number:03}\r\n\r\n".encode()
                for number in range(20)
            )
        )
        seen = [(await connection.answer())[1]["x-request-id"] for _ in range(20)]
        assert seen == [f"request-{number:03}" for number in range(20)]

    async def test_a_client_that_asks_for_the_end_gets_it(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await connection.answer())[0] == 200
        assert await connection.is_closed()

    async def test_an_offer_to_upgrade_is_answered_as_if_it_were_none(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(
            b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await connection.answer())[0] == 200

    async def test_a_client_that_leaves_in_the_middle_harms_nobody(self, wire: Connect, house: "House") -> None:
        for part in (b"GET /he", HEALTH, CHUNKED + b"2\r\n{"):
            connection = await wire()
            await connection.send(part)
            connection.writer.transport.abort()
        assert (await house.http.get("/health")).status_code == 200
