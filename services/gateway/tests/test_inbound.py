"""One request's ids, parameters, body and client."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_common.errors import InvalidInput, Malformed, PayloadTooLarge
from causeloop_gateway import inbound
from causeloop_gateway.inbound import BODY_BYTES, Inbound

if TYPE_CHECKING:
    from conftest import House

TOO_LARGE = r"^The body is larger than 1048576 bytes\. Send less at once\.$"


def request(*messages: dict[str, Any], query: bytes = b"", **headers: str) -> Inbound:
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        try:
            return next(left)
        except StopIteration:
            await asyncio.Event().wait()
            raise AssertionError from None

    given = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"method": "POST", "path": "/", "query_string": query, "headers": given, "client": ("192.0.2.1", 7)}
    return Inbound(scope, receive)


def chunk(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


class TestIds:
    @pytest.mark.parametrize("given", ["abcdefgh", "A-1_b.2Z", "x" * 64, pytest.param(ids.new("req"), id="ours")])
    def test_a_well_formed_request_id_is_kept(self, given: str) -> None:
        assert request(x_request_id=given).request_id == given

    @pytest.mark.parametrize("given", ["", "short", "x" * 65, "with space", "line\nbreak", "quote\"'<", "\u00e9" * 10])
    def test_any_other_is_replaced(self, given: str) -> None:
        made = request(x_request_id=given).request_id
        assert made != given
        ids.decode(made, "req")

    async def test_the_answer_carries_the_request_s_id(self, house: "House") -> None:
        answer = await house.http.get("/v1/workspace", headers={"x-request-id": "my-own-id"})
        assert answer.headers["x-request-id"] == answer.json()["trace_id"] == "my-own-id"


class TestIdempotencyKey:
    @pytest.mark.parametrize("given", ["a", "~" * 255, "{a:1}"])
    def test_of_visible_ascii_is_taken(self, given: str) -> None:
        assert request(idempotency_key=given).idempotency_key() == given

    def test_may_be_absent(self) -> None:
        assert request().idempotency_key() is None

    @pytest.mark.parametrize("given", ["", " ", "a b", "a" * 256, "\u00e9", "a\n", "\x7f"])
    def test_any_other_is_malformed(self, given: str) -> None:
        with pytest.raises(Malformed, match=r"^The Idempotency-Key must be 1 to 255 visible ASCII characters\.$"):
            request(idempotency_key=given).idempotency_key()


class TestParameters:
    def test_are_read_with_their_blanks(self) -> None:
        assert request(query=b"a=1&b=&c=%C3%A9&d=x+y").parameters() == {"a": "1", "b": "", "c": "é", "d": "x y"}
        assert request().parameters() == {}

    def test_given_twice_are_refused_by_name(self) -> None:
        with pytest.raises(InvalidInput) as refused:
            request(query=b"a=1&b=2&a=1&cls=1&cls=2").parameters()
        assert refused.value.fields == {"a": ["is given more than once"], "cls": ["is given more than once"]}

    @pytest.mark.parametrize("query", [b"a=%ff", b"a=%zz", b"%=1", b"a=%c3"])
    def test_with_an_escape_that_is_none_are_malformed(self, query: bytes) -> None:
        with pytest.raises(Malformed, match=r"^A % in the address is not followed by the hex digits of a UTF-8"):
            request(query=query).parameters()

    @pytest.mark.parametrize("query", [b"\xff=1", b"&".join(b"a%d=" % n for n in range(51))])
    def test_that_cannot_be_read_are_malformed(self, query: bytes) -> None:
        with pytest.raises(Malformed, match=r"^The query string cannot be read\.$"):
            request(query=query).parameters()


class TestBody:
    async def test_is_put_together(self) -> None:
        assert await request(chunk(b"ab", more=True), chunk(b"", more=True), chunk(b"c")).body() == b"abc"

    async def test_of_exactly_the_limit_is_taken(self) -> None:
        half = b"x" * (BODY_BYTES // 2)
        assert len(await request(chunk(half, more=True), chunk(half)).body()) == BODY_BYTES

    async def test_that_says_it_is_larger_is_refused_unread(self) -> None:
        with pytest.raises(PayloadTooLarge, match=TOO_LARGE):
            await request(content_length=str(BODY_BYTES + 1)).body()

    async def test_that_grows_larger_is_refused_without_reading_on(self) -> None:
        with pytest.raises(PayloadTooLarge, match=TOO_LARGE):
            await request(chunk(b"x" * BODY_BYTES, more=True), chunk(b"x", more=True), content_length="1").body()

    async def test_that_does_not_arrive_is_malformed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inbound, "BODY_SECONDS", 0.01)
        with pytest.raises(Malformed, match=r"^The body did not arrive within 0 seconds\.$"):
            await request(chunk(b"x", more=True)).body()

    async def test_whose_client_left_is_malformed(self) -> None:
        with pytest.raises(Malformed, match=r"^The request ended before its body did\.$"):
            await request(chunk(b"x", more=True), {"type": "http.disconnect"}).body()

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_over_http_the_limit_holds_with_and_without_a_length(self, house: "House", chunked: bool) -> None:
        async def stream() -> AsyncIterator[bytes]:
            for _ in range(17):
                yield b" " * 65_536

        content: Any = stream() if chunked else b" " * (BODY_BYTES + 1)
        answer = await house.http.post("/v1/auth/refresh", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert answer.headers["connection"] == "close"


class TestClientAddress:
    FORWARDED = "203.0.113.1, 203.0.113.2 ,203.0.113.3"

    @pytest.mark.parametrize(
        ("proxies", "address"),
        [(0, "192.0.2.1"), (1, "203.0.113.3"), (2, "203.0.113.2"), (3, "203.0.113.1"), (4, "192.0.2.1")],
    )
    def test_is_counted_from_the_right(self, proxies: int, address: str) -> None:
        assert request(x_forwarded_for=self.FORWARDED).client_address(proxies) == address

    def test_is_the_peer_s_where_nothing_was_forwarded(self) -> None:
        assert request().client_address(1) == "192.0.2.1"
        assert request(x_forwarded_for=" , ,").client_address(1) == "192.0.2.1"

    def test_what_the_client_wrote_itself_stands_too_far_left(self) -> None:
        spoofed = request(x_forwarded_for="127.0.0.1, 10.0.0.1, 203.0.113.9")
        assert spoofed.client_address(1) == "203.0.113.9"

    def test_each_proxy_may_have_added_a_line_of_its_own(self) -> None:
        made = request()
        made.scope["headers"] = [(b"x-forwarded-for", value) for value in (b"127.0.0.1, 203.0.113.1", b"203.0.113.2")]
        made = Inbound(made.scope, None)
        assert made.client_address(1) == "203.0.113.2"
        assert made.client_address(2) == "203.0.113.1"

    def test_is_cut_to_a_size_that_can_be_stored(self) -> None:
        assert len(request(x_forwarded_for="x" * 10_000).client_address(1)) == 64

    def test_may_be_unknown(self) -> None:
        made = request()
        made.scope["client"] = None
        assert made.client_address(0) == ""
