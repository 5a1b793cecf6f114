"""Bytes of bodies in flight: bounded for each sender and for the process, and given back however a request ends."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from causeloop_common.errors import RateLimited, Timeout, Unavailable
from causeloop_gateway import flight as module, protocol
from causeloop_gateway.flight import PROCESS_BYTES, SENDER_BYTES, SMALL_BYTES, Flight, Load

if TYPE_CHECKING:
    from conftest import House, Wire

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[bool]]
Connect = Callable[[], Awaitable["Wire"]]


@pytest.fixture
def flight(house: "House") -> Flight:
    """The gateway's own."""
    edge: Any = house.listener.config.app
    (route, *_) = edge._routes["GET", "workspace"]
    found: Flight = route._gateway.flight
    return found


class TestFlight:
    def test_refuses_a_sender_with_too_many_bytes_and_no_other(self) -> None:
        """E5: 429 with Retry-After for a tenant that sends too much at once."""
        flight = Flight()
        first, more, other = Load(flight, "a"), Load(flight, "a"), Load(flight, "b")
        first.take(SENDER_BYTES)
        with pytest.raises(RateLimited, match=r"bytes of yours are being worked on\. Send less at once") as refused:
            more.take(1)
        assert refused.value.retry_after == 1
        other.take(SENDER_BYTES)
        first.give_back()
        more.take(1)
        assert flight.total == SENDER_BYTES + 1

    def test_refuses_everybody_when_the_process_has_too_many(self) -> None:
        """E5: 503 with Retry-After when the process has as much as fits."""
        flight = Flight()
        loads = [Load(flight, str(number)) for number in range(1000)]
        taken = 0
        for load in loads:
            for size in (SENDER_BYTES, 1024 * 1024, 64 * 1024, SMALL_BYTES):
                with suppress(RateLimited, Unavailable):
                    load.take(size)
                    taken += size
        assert flight.total == taken == PROCESS_BYTES
        with pytest.raises(Unavailable, match="Nothing was done; try again") as refused:
            Load(flight, "another").take(1)
        assert refused.value.retry_after == 1
        for load in loads:
            load.give_back()
        assert (flight.total, flight._of_senders) == (0, {})

    def test_has_room_for_a_small_body_however_much_others_send(self) -> None:
        """E5: one person in five workspaces, or strangers at many addresses, took all of it."""
        flight = Flight()
        for number in range(100):
            greedy = Load(flight, str(number))
            with suppress(RateLimited, Unavailable):
                while True:
                    greedy.take(SMALL_BYTES)
        Load(flight, "another").take(SMALL_BYTES)

    def test_what_was_refused_does_not_count(self) -> None:
        flight = Flight()
        load = Load(flight, "a")
        load.take(SENDER_BYTES)
        for _ in range(3):
            with pytest.raises(RateLimited):
                load.take(1)
        load.give_back()
        assert (flight.total, flight._of_senders) == (0, {})


class TestRequests:
    async def test_give_back_what_they_took_however_they_end(
        self, house: "House", flight: Flight, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """E5: an answer, a refusal, a failure: nothing is left."""
        person = await house.sign_up()
        await house.body("PUT", "/secrets/a", person.token, json={"value": "v"})
        await house.call("PUT", "/secrets/a", person.token, content="no JSON")
        await house.call("PUT", "/secrets/a", person.token, json={"value": 7})
        await house.call("POST", "/auth/refresh", json={"refresh_token": "none"})

        async def silent(*_: Any) -> Any:
            raise Timeout("It did not answer.")

        monkeypatch.setattr(house.application.bus, "request", silent)
        await house.call("PUT", "/secrets/a", person.token, json={"value": "v"})
        assert (flight.total, flight._of_senders) == (0, {})

    async def test_are_refused_as_their_bytes_arrive(
        self, house: "House", wire: Connect, until: Until, flight: Flight, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """E5: those that arrived count, whatever length was named; the client reads why."""
        monkeypatch.setattr(module, "SENDER_BYTES", 100_000)
        person = await house.sign_up()
        lines = [
            "PUT /v1/secrets/a HTTP/1.1",
            "host: x",
            f"authorization: Bearer {person.token}",
            "content-length: 90000",
        ]
        head = "\r\n".join([*lines, "", ""])
        slow, late = await wire(), await wire()
        await slow.send(head.encode() + b"x" * 80_000)

        async def has_come() -> bool:
            return flight.total >= 80_000

        await until(has_come)
        await late.send(head.encode() + b"x" * 90_000)
        status, headers, body = await late.answer()
        assert (status, orjson.loads(body)["code"], headers["retry-after"]) == (429, "rate_limited", "1")
        await slow.send(b"x" * 10_000)
        assert (await slow.answer())[0] == 400
        assert flight.total == 0

    async def test_of_those_who_are_not_signed_in_count_by_their_address(
        self, house: "House", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SENDER_BYTES", 1000)
        body = {"refresh_token": "x" * 2000}
        await house.refused(429, "rate_limited", "POST", "/auth/refresh", json=body)
        person = await house.sign_up()
        await house.body("PUT", "/secrets/a", person.token, json={"value": "v" * 900})


class TestAnswers:
    async def test_that_a_client_does_not_read_count_for_it_until_it_is_cut_off(
        self, house: "House", until: Until, flight: Flight, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """E5: answers that nobody read were held for ever, and without a bound."""
        monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.5)
        person = await house.sign_up()
        await house.call("POST", "/keys", person.token, json={"name": "large", "type": "aes256-gcm"})
        body = orjson.dumps({"items": [{"plaintext": "A" * 60_000}] * 15})
        lines = [
            "POST /v1/keys/large/encrypt HTTP/1.1",
            "host: x",
            f"authorization: Bearer {person.token}",
            f"content-length: {len(body)}",
        ]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", house.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
        highest = 0

        async def is_held() -> bool:
            nonlocal highest
            highest = max(highest, flight.total)
            if writer.transport.is_closing():
                return True
            if not writer.transport.get_write_buffer_size():
                writer.write(request)
            return False

        await until(is_held)  # the gateway cut it off, although more was on its way

        async def is_given_back() -> bool:
            return flight.total == 0

        await until(is_given_back)
        assert highest >= len(body)
        del reader
