"""What a request may be, on every route alike: its version, its address, its query and its body."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.problems import LARGEST
from causeloop_gateway.reader import _quotes
from causeloop_gateway.routes import ENDPOINTS, STREAMS

if TYPE_CHECKING:
    from conftest import House, Person, Wire

Connect = Callable[[], Awaitable["Wire"]]

EVERY = (*ENDPOINTS, *STREAMS)
EACH = pytest.mark.parametrize("endpoint", EVERY, ids=lambda one: one.command.operation)
BODILY = pytest.mark.parametrize(
    "endpoint", [one for one in EVERY if one.takes_body], ids=lambda one: one.command.operation
)
NAMES = {"id": "x", "path": "a", "name": "a"}
WIDE = "\U0001f600" * 200


@pytest.fixture
async def owner(house: "House") -> "Person":
    return await house.sign_up()


@pytest.fixture
async def key(house: "House", owner: "Person") -> str:
    """A named key."""
    await house.call("POST", "/keys", owner.token, json={"name": "orders", "type": "aes256-gcm"})
    return "orders"


def path_of(endpoint: Endpoint) -> str:
    return endpoint.path.replace(":path}", "}").format(**NAMES)


def wrong_bodies(endpoint: Endpoint) -> dict[str, bytes]:
    """Bodies in which a great deal is wrong."""
    names = endpoint.other_fields or ("none",)
    return {
        "unknown fields": orjson.dumps({f"{number}{WIDE}": number for number in range(500)}),
        "an unknown field without an end": orjson.dumps({"x" * 150_000: 1}),
        "lists": orjson.dumps(dict.fromkeys(names, [{}] * 40_000)),
        "objects": orjson.dumps({name: {f"!{number}": number for number in range(8000)} for name in names}),
        "lists of objects": orjson.dumps({name: [{f"!{n}{WIDE}": 1 for n in range(100)}] for name in names}),
        "lists of lists": b'{"' + names[-1].encode() + b'":' + b"[" * 200 + b"]" * 200 + b"}",
        "texts": orjson.dumps(dict.fromkeys(names, "\x00" * 20_000)),
        "nothing": b"{}",
        "no JSON": b"{" * 100_000,
    }


def written(draw: random.Random, depth: int) -> str:
    """JSON in one of its spellings: objects with few different names, texts with everything that must be escaped."""
    kind = draw.choice("oooat1") if depth else draw.choice("t1")
    space = draw.choice(["", "", " ", "\n", "\t"])
    if kind == "o":
        pairs = [f"{quoted(draw)}{space}:{space}{written(draw, depth - 1)}" for _ in range(draw.randint(0, 5))]
        return "{" + space + f"{space},".join(pairs) + "}"
    if kind == "a":
        return "[" + ",".join(written(draw, depth - 1) for _ in range(draw.randint(0, 2))) + space + "]"
    return quoted(draw) if kind == "t" else draw.choice(["1", "null", "true", "-1.5e3", "18446744073709551616"])


def quoted(draw: random.Random) -> str:
    parts = [
        "a",
        "b",
        ":",
        "{",
        ",",
        "\\\\",
        '\\"',
        "\\u0022",
        "\\u005c",
        "\\n",
        "\\/",
        "é",
        "\\u00e9",
        "\\ud83d\\ude00",
    ]
    return '"' + "".join(draw.choice(parts) for _ in range(draw.choice([0, 1, 1, 1, 2, 5]))) + '"'


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise LookupError
    return dict(pairs)


class TestARefusal:
    @EACH
    async def test_is_never_large(self, house: "House", owner: "Person", endpoint: Endpoint) -> None:
        """E4: on every route, whatever is wrong and how often, the answer has 4 KiB at most and names 25 fields."""
        path = path_of(endpoint)
        asked: list[dict[str, Any]] = [{"params": {f"{number}{'y' * 200}": "z" for number in range(40)}}]
        asked += [
            {"headers": {"x-request-id": "r" * 64, "idempotency-key": "k" * 5000}},
            {"params": {"cursor": "c" * 5000}},
        ]
        if endpoint.takes_body:
            asked += [{"content": body} for body in wrong_bodies(endpoint).values()]
        for one in asked:
            answer = await house.call(endpoint.method, path, owner.token, **one)
            if answer.is_success:
                continue
            assert len(answer.content) <= LARGEST
            assert len(answer.json().get("errors", {})) <= 25

    async def test_counts_what_it_does_not_name(self, house: "House", owner: "Person", key: str) -> None:
        """E4: 1000 items with 16 wrong names each are a small refusal."""
        wrong = {"plaintext": "", "context": {f"!{number}": "" for number in range(16)}}
        answer = await house.call("POST", f"/keys/{key}/encrypt", owner.token, json={"items": [wrong] * 1000})
        assert (answer.status_code, len(answer.content) <= LARGEST) == (422, True)
        unknown = {f"f{number}": 1 for number in range(40)}
        problem = await house.refused(422, "validation_error", "PUT", "/secrets/a", owner.token, json=unknown)
        assert problem["detail"] == "The request has 40 invalid fields; 'errors' names 25 of them."


class TestLengths:
    @pytest.mark.parametrize(
        ("verb", "body", "named"),
        [
            ("encrypt", {"items": [{}] * 340_000}, "items"),
            ("decrypt", {"items": [{}] * 340_000}, "items"),
            ("encrypt", {"items": [""] * 1001}, "items"),
            ("encrypt", {"plaintext": "", "context": {f"n{number}": "" for number in range(50_000)}}, "context"),
            ("encrypt", {"items": [{"plaintext": "", "context": {f"n{n}": "" for n in range(17)}}]}, "items.context"),
            ("encrypt", {"items": [1, {"plaintext": "", **{f"n{n}": "" for n in range(50_000)}}]}, "items"),
        ],
        ids=["empty items", "empty items to decrypt", "texts", "a map", "a map of an item", "an item"],
    )
    async def test_are_checked_before_content(
        self, house: "House", owner: "Person", key: str, verb: str, body: dict[str, Any], named: str
    ) -> None:
        """E3: a list or map that is too long costs nobody anything, the service behind the gateway least of all."""
        asked = 0
        request = house.application.bus.request

        async def counted(ctx: Any, kind: Any, body: bytes) -> Any:
            nonlocal asked
            asked += kind.operation in ("encrypt", "decrypt")
            return await request(ctx, kind, body)

        house.application.bus.request = counted  # type: ignore[method-assign]
        try:
            content = orjson.dumps(body)
            problem = await house.refused(
                422, "validation_error", "POST", f"/keys/{key}/{verb}", owner.token, content=content
            )
        finally:
            house.application.bus.request = request  # type: ignore[method-assign]
        assert list(problem["errors"]) == [named]
        assert "at most" in problem["errors"][named][0]
        assert asked == 0


class TestNames:
    @pytest.mark.parametrize("around", [(b"{", b"}"), (b'{"value":{', b"}}"), (b'{"value":[{', b"}]}")], ids=str)
    async def test_of_which_the_last_of_very_many_is_given_twice_are_refused_at_once(
        self, house: "House", owner: "Person", around: tuple[bytes, bytes]
    ) -> None:
        """E3: to find the one that is given twice took minutes, in which nobody else was answered."""
        names = b",".join(b'"%x":1' % number for number in range(90_000))
        body = around[0] + names + b',"last":1,"last":1' + around[1]
        async with asyncio.timeout(20):
            answer = await house.call("PUT", "/secrets/a", owner.token, content=body)
        assert answer.status_code in (400, 422)
        assert len(answer.content) <= LARGEST

    async def test_of_a_stranger_are_looked_at_before_all_else(self, house: "House") -> None:
        """E3: whatever else is wrong with a body, an unknown name is refused first."""
        body = b'{"unknown": 1, "subject_token": {"a": 1, "a": 2}}'
        problem = await house.refused(422, "validation_error", "POST", "/auth/exchange", content=body)
        assert list(problem["errors"]) == ["unknown"]


class TestAParameter:
    @EACH
    async def test_that_the_route_does_not_take_is_refused(
        self, house: "House", owner: "Person", endpoint: Endpoint
    ) -> None:
        """E6: on every route and method an unknown parameter is refused by its name, and nothing is done."""
        for query in ("colour=red", "version=0&colour=", "colour"):
            answer = await house.call(endpoint.method, f"{path_of(endpoint)}?{query}", owner.token)
            assert answer.status_code == 422, answer.text
            assert "colour" in answer.json()["errors"]

    async def test_beside_a_body_is_refused(self, house: "House", owner: "Person") -> None:
        """E6: what was meant as a condition is not passed over."""
        await house.body("PUT", "/secrets/kept", owner.token, json={"value": "first"})
        for query in ("version=0", "version=1", "value=x"):
            problem = await house.refused(
                422, "validation_error", "PUT", f"/secrets/kept?{query}", owner.token, json={"value": "second"}
            )
            assert list(problem["errors"]) == [query.partition("=")[0]]
        await house.refused(422, "validation_error", "POST", "/secrets/kept/reveal?version=1", owner.token)
        assert (await house.body("POST", "/secrets/kept/reveal", owner.token))["value"] == "first"

    @pytest.mark.parametrize(
        "name",
        [
            "If-Match",
            "If-None-Match",
            "If-Unmodified-Since",
            "Content-Range",
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
        ],
    )
    async def test_in_a_header_is_refused(self, house: "House", owner: "Person", name: str) -> None:
        """E6: a condition of HTTP was passed over, and what it forbids was done."""
        await house.body("PUT", "/secrets/conditional", owner.token, json={"value": "first"})
        problem = await house.refused(
            400, "malformed", "PUT", "/secrets/conditional", owner.token, json={"value": "second"}, headers={name: "*"}
        )
        assert f"no effect here: {name.lower()}." in problem["detail"]
        assert (await house.body("POST", "/secrets/conditional/reveal", owner.token))["value"] == "first"

    @pytest.mark.parametrize("path", ["/secrets", "/audit/events", "/audit/stream"])
    async def test_in_a_body_is_refused_where_none_is_read(self, house: "House", owner: "Person", path: str) -> None:
        """E6: a body that nobody would read is refused, too."""
        await house.refused(400, "malformed", "GET", path, owner.token, content=b'{"limit": 1}')

    @pytest.mark.parametrize("number", ["1_0", "5.0", "+5", " 5", "5 ", "0x5", "1e1", "\u0665", "", "9" * 19, "true"])
    @pytest.mark.parametrize("path", ["/secrets?limit=", "/audit/events?limit=", "/audit/consistency?from=0&to="])
    async def test_that_is_a_number_is_digits(self, house: "House", owner: "Person", path: str, number: str) -> None:
        """E20: a number is digits and no more."""
        given = number.replace("+", "%2B").replace(" ", "%20")
        problem = await house.refused(422, "validation_error", "GET", path + given, owner.token)
        assert "digits" in str(problem["errors"])

    @pytest.mark.parametrize(
        "moment",
        [
            "1700000000", "1700000000.5", "2026-01-31", "2026-01-31T12:00Z", "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z", "2026-01-31T12:00:00+0200", "2026-01-31T12:00:00+02:60", "2026-W05-6T12:00:00Z",
            "20260131T120000Z",
            "\u0662026-01-31T12:00:00Z",
        ],
    )  # fmt: skip
    async def test_that_is_a_time_is_as_rfc_3339_writes_it(self, house: "House", owner: "Person", moment: str) -> None:
        """E20: of the many ways to write a time one is taken."""
        problem = await house.refused(
            422, "validation_error", "GET", "/audit/events", owner.token, params={"since": moment}
        )
        assert "RFC 3339" in problem["errors"]["since"][0]

    async def test_whose_plus_became_a_space_is_refused_with_a_hint(self, house: "House", owner: "Person") -> None:
        """E20: the offset of a time that was not encoded."""
        for name in ("since", "until"):
            path = f"/audit/events?{name}=2026-01-31T12:00:00+02:00"
            problem = await house.refused(422, "validation_error", "GET", path, owner.token)
            assert "%2B" in problem["errors"][name][0]


class TestAnAddress:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "/secrets/db%0A"),
            ("GET", "/secrets/db%0A"),
            ("POST", "/secrets/db/reveal%0A"),
            ("POST", "/secrets/db%0A/reveal"),
            ("GET", "/secrets%0A"),
            ("POST", "/keys/orders/encrypt%0A"),
            ("GET", "/audit/events%0A"),
            ("GET", "/audit/stream%0A"),
            ("GET", "/workspace%0A"),
        ],
    )
    async def test_does_not_lose_a_line_break_at_its_end(
        self, house: "House", owner: "Person", method: str, path: str
    ) -> None:
        """E7: an address with a line break at its end is another address."""
        body = {"json": {"value": "v"}} if method == "PUT" else {}
        await house.body("PUT", "/secrets/db", owner.token, json={"value": "kept"})
        before = await house.body("GET", "/secrets/db", owner.token)
        answer = await house.call(method, path, owner.token, **body)
        assert answer.status_code in (404, 422), answer.text
        assert await house.body("GET", "/secrets/db", owner.token) == before

    @pytest.mark.parametrize("path", ["openapi.json", "asyncapi.json", "docs", "health", "ready", ""])
    async def test_of_a_page_is_another_one_with_a_line_break(self, wire: Connect, path: str) -> None:
        """E7: the explorer's pages were shown at such an address."""
        connection = await wire()
        await connection.send(f"GET /{path}%0A HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        assert (await connection.answer())[0] == 404

    @pytest.mark.parametrize("path", ["a%zz", "%", "a%4", "a%ff", "a%c3", "a%ed%a0%80"])
    async def test_with_an_escape_that_is_none_is_malformed(self, house: "House", owner: "Person", path: str) -> None:
        """E28: two readers could read it in two ways."""
        for method in ("GET", "PUT"):
            await house.refused(400, "malformed", method, f"/secrets/{path}", owner.token)
        await house.refused(400, "malformed", "GET", f"/secrets?cursor={path}", owner.token)

    @pytest.mark.parametrize("word", ["reveal", "versions"])
    async def test_of_a_secret_does_not_end_in_a_word_of_addresses(
        self, house: "House", owner: "Person", word: str
    ) -> None:
        """E28: `db/reveal` would be a secret and the way to reveal `db`."""
        for path in (word, f"db/{word}"):
            problem = await house.refused(
                422, "validation_error", "PUT", f"/secrets/{path}", owner.token, json={"value": "v"}
            )
            assert "a part of addresses" in problem["errors"]["path"][0]
        await house.body("PUT", f"/secrets/{word}/a", owner.token, json={"value": "v"})


class TestABody:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/secrets/twice", b'{"value":"a","value":"b"}'),
            ("/secrets/twice", b'{"value" :"a","value":"b"}'),
            ("/secrets/twice", b'{"value"\n:"a\\":","value"\t: "b"}'),
            ("/secrets/twice", b'{"value":"a","valu\\u0065":"b"}'),
            ("/secrets/twice", b'{"value":"\\u0022:","value":"b"}'),
            ("/keys/orders/encrypt", b'{"plaintext":"","context":{"a":"1","a":"2"}}'),
            ("/keys/orders/encrypt", b'{"items":[{"plaintext":""},{"plaintext":"","plaintext":"QQ=="}]}'),
            ("/keys/orders/decrypt", b'{"items":[{"ciphertext":"a","context":{"a":"1","b" :"2","a":"1"}}]}'),
            ("/workspaces", b'{"name":"a","slug":"a","name":"a"}'),
        ],
    )
    async def test_that_gives_a_name_twice_is_malformed(
        self, house: "House", owner: "Person", path: str, body: bytes
    ) -> None:
        """E19: which of the two holds would be a matter of the reader."""
        method, token = ("PUT", owner.token) if path.startswith("/secrets") else ("POST", owner.token)
        token = owner.realm_token if path == "/workspaces" else token
        problem = await house.refused(400, "malformed", method, path, token, content=body)
        assert "twice in one object" in problem["detail"]

    @pytest.mark.parametrize(
        "body",
        [
            b'{"value":"a"}', b'{ "value" : "a" }', b'{"value":"{\\"a\\":1,\\"a\\":2}"}', b'{"value":" : \\" :"}',
            b'{\r\n"value"\t:\r\n"a"}', b'{"value":"a","version":null}',
        ],
    )  # fmt: skip
    async def test_that_gives_each_name_once_is_read(self, house: "House", owner: "Person", body: bytes) -> None:
        await house.body("PUT", "/secrets/once", owner.token, content=body)
        shown = await house.body("POST", "/secrets/once/reveal", owner.token)
        assert shown["value"] == orjson.loads(body)["value"]

    def test_gives_a_name_twice_where_its_quotation_marks_are_too_many(self) -> None:
        """E19: for bodies made at random, whichever way they are written, and whatever stands in their texts."""
        draw, found = random.Random(19), 0
        for _ in range(20_000):
            body = written(draw, 4).encode()
            try:
                json.loads(body, object_pairs_hook=each_once)
                is_twice = False
            except LookupError:
                is_twice = True
            assert (_quotes(orjson.dumps(orjson.loads(body))) != _quotes(body)) is is_twice, body
            found += is_twice
        assert 4000 < found < 16_000

    @pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "GZIP", "identity, gzip", "x-unknown"])
    @BODILY
    async def test_that_is_compressed_is_not_taken(
        self, house: "House", owner: "Person", endpoint: Endpoint, coding: str
    ) -> None:
        """E21: it is named as what it is, on every route that takes a body."""
        token = owner.realm_token if endpoint.path == "/workspaces" else owner.token
        problem = await house.refused(
            415, "unsupported_media_type", endpoint.method, path_of(endpoint), token,
            content=b"\x1f\x8b\x08", headers={"content-encoding": coding},
        )  # fmt: skip
        assert "Content-Encoding" in problem["detail"]

    async def test_that_is_compressed_on_its_way_is_not_taken(self, wire: Connect, owner: "Person") -> None:
        """E21: compressed by Transfer-Encoding, it was "not JSON"."""
        connection = await wire()
        await connection.send(
            b"PUT /v1/secrets/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\n"
            b"transfer-encoding: gzip, chunked\r\n\r\n3\r\n\x1f\x8b\x08\r\n0\r\n\r\n" % owner.token.encode()
        )
        status, _, body = await connection.answer()
        assert (status, orjson.loads(body)["code"]) == (415, "unsupported_media_type")

    async def test_in_another_encoding_is_not_taken(self, house: "House", owner: "Person") -> None:
        for kind in (
            "application/json; charset=utf-16",
            'application/json;charset="latin1"',
            "application/json; charset=utf-8; charset=utf-16",
            "application/json; charset=utf-88",
        ):
            await house.refused(
                415, "unsupported_media_type", "PUT", "/secrets/a", owner.token,
                content='{"value": "v"}'.encode("utf-16"), headers={"content-type": kind},
            )  # fmt: skip


class TestAVersion:
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /health\r\n\r\n",
            b"GET /health HTTP/0.9\r\nhost: a\r\n\r\n",
            b"GET /health HTTP/3.0\r\nhost: a\r\n\r\n",
        ],
    )
    async def test_that_is_not_spoken_is_refused(self, wire: Connect, head: bytes) -> None:
        """E16: a request without a version needed no Host."""
        connection = await wire()
        await connection.send(head)
        assert (await connection.answer())[0] == 400

    async def test_1_0_has_no_chunks(self, wire: Connect) -> None:
        """E16: a proxy of that version passes a chunked body on as it is, and reads its end elsewhere."""
        connection = await wire()
        await connection.send(
            b"PUT /v1/secrets/a HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        )
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == (400, "close")
