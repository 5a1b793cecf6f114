"""What the head of a request may be: its headers and its method."""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import orjson
import pytest

from causeloop_gateway.edge import TransportSecurity
from causeloop_gateway.inbound import Inbound

if TYPE_CHECKING:
    from conftest import House, Person, Wire

Connect = Callable[[], Awaitable["Wire"]]


@pytest.fixture
async def owner(house: "House") -> "Person":
    return await house.sign_up()


class TestAHeader:
    @pytest.mark.parametrize(
        "lines",
        [
            b"",
            b"host: a\r\nhost: b\r\n",
            b"host: a\r\nhost: a\r\n",
            b"host: a\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n",
            b"host: a\r\nIdempotency-Key: a\r\nidempotency-key: b\r\n",
            b"host: a\r\ncontent-type: application/json\r\ncontent-type: text/plain\r\n",
            b"host: a\r\nlast-event-id: 1\r\nlast-event-id: 2\r\n",
            b"host: a\r\nx-request-id: abcdefgh\r\nx-request-id: abcdefgi\r\n",
        ],
        ids=["no host", "hosts", "one host twice", "authorization", "key", "type", "event id", "request id"],
    )
    @pytest.mark.parametrize("target", [b"GET /v1/workspace", b"PUT /v1/secrets/a", b"GET /health", b"GET /nowhere"])
    async def test_of_which_there_must_be_one_is_one(self, wire: Connect, target: bytes, lines: bytes) -> None:
        """E16: none or several are refused, on every address."""
        connection = await wire()
        await connection.send(target + b" HTTP/1.1\r\n" + lines + b"\r\n")
        status, _, body = await connection.answer()
        assert (status, orjson.loads(body)["code"]) == (400, "malformed")

    async def test_of_another_scheme_holds_no_token_that_is_wrong(self, house: "House") -> None:
        """E23: somebody who sent a password was refused for a token."""
        for given, challenge in (("Basic YTpi", ""), ("bearer x", ', error="invalid_token"')):
            answer = await house.call("GET", "/workspace", headers={"authorization": given})
            assert answer.headers["www-authenticate"] == f'Bearer realm="causeloop"{challenge}'

    async def test_that_may_have_several_lines_has_them_all(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(
            b"GET /health HTTP/1.1\r\nhost: a\r\naccept: text/*\r\naccept: */*\r\ncookie: a\r\ncookie: b\r\n\r\n"
        )
        assert (await connection.answer())[0] == 200

    @pytest.mark.parametrize("host", ["a b", "a, b", "a/b", "u@a", "a:b", "a:1:2", "[::1", "a\\b", "\u00e9"])
    async def test_host_that_is_none_is_refused(self, wire: Connect, host: str) -> None:
        """E16: two hosts in one line, or what another reader would cut elsewhere."""
        connection = await wire()
        await connection.send(b"GET /health HTTP/1.1\r\nhost: " + host.encode("latin-1") + b"\r\n\r\n")
        status, _, body = await connection.answer()
        assert (status, orjson.loads(body)["code"]) == (400, "malformed")

    @pytest.mark.parametrize(
        "host", ["a", "a.example:4000", "127.0.0.1:4000", "[::1]:4000", "[fe80::1]", "a_b-c.d", ""]
    )
    async def test_host_may_be_any_name_or_address(self, wire: Connect, host: str) -> None:
        connection = await wire()
        await connection.send(b"GET /health HTTP/1.1\r\nhost: " + host.encode() + b"\r\n\r\n")
        assert (await connection.answer())[0] == 200

    async def test_host_may_be_missing_before_http_1_1(self, wire: Connect) -> None:
        connection = await wire()
        await connection.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await connection.answer())[0] == 200

    async def test_idempotency_key_may_stand_in_quotation_marks(self, house: "House", owner: "Person") -> None:
        """E25: `k` and `"k"` are one key, as the header's draft writes it and as most clients do."""
        made = [
            await house.call(
                "PUT", "/secrets/keyed", owner.token, json={"value": "v"}, headers={"idempotency-key": key}
            )
            for key in ("k-25", '"k-25"', "k-25")
        ]
        assert [one.json()["version"] for one in made] == [1, 1, 1]
        assert [one.headers.get("idempotency-replayed") for one in made] == [None, "true", "true"]

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            ("text/plain;q=0, */*", "application/json"),
            ("text/*", "text/plain"),
            ("text/plain", "text/plain"),
            ("TEXT/Plain; charset=utf-8", "text/plain"),
            ("text/plain, application/json", "application/json"),
            ("application/json;q=0.5, text/plain;q=0.8", "text/plain"),
            ("application/json;q=0.8, text/plain;q=0.5", "application/json"),
            ("text/plain, */*;q=0.1", "text/plain"),
            ("text/*;q=0.2, text/plain;q=0", "application/json"),
            ("application/*;q=0.1, text/*", "text/plain"),
            ("*/*", "application/json"),
            ("", "application/json"),
            ("text/html", "application/json"),
            ("text/plain;q=nan", "application/json"),
            ("text/plain;q=1.5", "application/json"),
            (";;,,;q", "application/json"),
        ],
    )
    async def test_accept_is_read_with_its_weights(
        self, house: "House", owner: "Person", accept: str, kind: str
    ) -> None:
        """E18: the type with the greater weight, and JSON where they are equal."""
        answer = await house.call("GET", "/audit/key", owner.token, headers={"accept": accept})
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == kind


class TestTheAddressWithoutAPath:
    @pytest.mark.parametrize("accept", ["text/html,application/xhtml+xml,*/*;q=0.8", "*/*"])
    async def test_leads_to_the_documents(self, house: "House", accept: str) -> None:
        """F12: the address in a browser was a 404."""
        answer = await house.http.get("/", headers={"accept": accept})
        assert answer.status_code == 200
        if "html" in accept:
            assert answer.headers["content-type"].startswith("text/html")
            links = re.findall('href="([^"]+)"', answer.text)
        else:
            links = list(answer.json()["links"])
        assert {"/docs", "/openapi.json"} <= set(links)
        assert "README" in answer.text
        for link in links:
            assert (await house.http.get(link)).status_code == 200


class TestAMethod:
    @pytest.mark.parametrize(
        "path", ["/health", "/ready", "/v1/workspace", "/v1/secrets", "/openapi.json", "/docs", "/v1/audit/key", "/"]
    )
    async def test_head_is_get_without_the_body(self, house: "House", owner: "Person", path: str) -> None:
        """E22: HEAD is answered on every address that answers GET."""
        answers = [await house.http.request(method, path, headers=owner.headers) for method in ("GET", "HEAD")]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[1].content == b""
        assert answers[1].headers["content-length"] == str(len(answers[0].content))

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", "/health", "GET, HEAD"),
            ("DELETE", "/ready", "GET, HEAD"),
            ("POST", "/docs", "GET, HEAD"),
            ("PUT", "/openapi.json", "GET, HEAD"),
            ("PATCH", "/v1/secrets/a", "GET, HEAD, PUT"),
            ("PUT", "/v1/secrets", "GET, HEAD"),
            ("GET", "/v1/keyring/rotate", "POST"),
            ("OPTIONS", "/v1/keys", "GET, HEAD, POST"),
            ("BREW", "/v1/workspace", "GET, HEAD"),
        ],
    )
    async def test_that_is_not_offered_is_refused_with_those_that_are(
        self, house: "House", method: str, path: str, allowed: str
    ) -> None:
        """E22: 405, with `Allow`, as a problem."""
        answer = await house.http.request(method, path)
        assert answer.status_code in (400, 405), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        if answer.status_code == 405:
            assert (answer.json()["code"], answer.headers["allow"]) == ("method_not_allowed", allowed)

    @pytest.mark.parametrize(
        "path", ["/docs/", "/docs/nothing", "/docs/oauth2-redirect/x", "/static-offline-docs/nothing", "/openapi.jsonx"]
    )
    async def test_at_no_address_is_a_problem(self, house: "House", path: str) -> None:
        """E22: below the explorer's address, too."""
        answer = await house.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert answer.json()["code"] == "not_found"


class TestTransportSecurity:
    async def test_is_not_sent_without_a_trusted_proxy(self, house: "House") -> None:
        """E24: over plain HTTP the header means nothing, and a client's own word is no proxy's."""
        for headers in ({}, {"x-forwarded-proto": "https"}):
            answer = await house.http.get("/health", headers=headers)
            assert "strict-transport-security" not in answer.headers

    @pytest.mark.parametrize(
        ("words", "proxies", "forwarded", "is_sent"),
        [
            ("max-age=1", 1, "https", True),
            ("max-age=1", 1, "HTTPS", True),
            ("max-age=1", 2, "https", True),
            ("max-age=1", 2, "https, http", True),
            ("max-age=1", 1, "https, http", False),
            ("max-age=1", 1, "http", False),
            ("max-age=1", 1, "", False),
            ("max-age=1", 0, "https", False),
            ("", 1, "https", False),
        ],
    )
    def test_is_the_operator_s_where_a_trusted_proxy_has_tls(
        self, words: str, proxies: int, forwarded: str, is_sent: bool
    ) -> None:
        """E24: the proxy that is trusted decides, and the operator chooses the words."""
        headers = [(b"x-forwarded-proto", forwarded.encode())] if forwarded else []
        scope = {"method": "GET", "path": "/", "query_string": b"", "headers": headers}
        made = TransportSecurity(words, proxies)
        assert made.applies(Inbound(scope, None)) is is_sent
        assert made.header == (b"strict-transport-security", words.encode())
