"""Whatever is sent, the answer is a clear problem, nothing changes, and nobody else's request is hurt."""

import asyncio
import json
from typing import Any

import orjson
import pytest

from tests.security.wire import head, is_problem, say
from tests.support.stack import Person, Stack, refused

pytestmark = pytest.mark.usefixtures("bystander", "nothing_changes")

MIB = 1024 * 1024
FORMS: dict[str, tuple[bytes, int, str, str | None]] = {
    "an unknown field": (b'{"value":"v","more":1}', 422, "validation_error", "more"),
    "an unknown field with a name of ours": (b'{"value":"v","cls":1,"self":1}', 422, "validation_error", "cls"),
    "an unknown field without a name": (b'{"value":"v","":1}', 422, "validation_error", ""),
    "a field of the path": (b'{"value":"v","path":"other"}', 422, "validation_error", "path"),
    "a field of another tenant": (b'{"value":"v","workspace_id":"ws_0"}', 422, "validation_error", "workspace_id"),
    "a field missing": (b"{}", 422, "validation_error", "value"),
    "no body": (b"", 422, "validation_error", "value"),
    "a number for a text": (b'{"value":5}', 422, "validation_error", "value"),
    "null for a text": (b'{"value":null}', 422, "validation_error", "value"),
    "a list for a text": (b'{"value":["v"]}', 422, "validation_error", "value"),
    "an object for a text": (b'{"value":{"value":"v"}}', 422, "validation_error", "value"),
    "a text for a number": (b'{"value":"v","version":"0"}', 422, "validation_error", "version"),
    "true for a number": (b'{"value":"v","version":true}', 422, "validation_error", "version"),
    "a fraction": (b'{"value":"v","version":0.5}', 422, "validation_error", "version"),
    "a fraction that is whole": (b'{"value":"v","version":0.0}', 422, "validation_error", "version"),
    "a negative number": (b'{"value":"v","version":-1}', 422, "validation_error", "version"),
    "a number beyond the column": (b'{"value":"v","version":2147483647}', 422, "validation_error", "version"),
    "a number beyond 64 bits": (b'{"value":"v","version":36893488147419103232}', 422, "validation_error", "version"),
    "a text that is too long": (b'{"value":"' + b"v" * 65_537 + b'"}', 422, "validation_error", "value"),
    "a number beyond a double": (b'{"value":"v","version":1e999}', 400, "malformed", None),
    "a number of 400 digits": (b'{"value":"v","version":' + b"9" * 400 + b"}", 400, "malformed", None),
    "not a number": (b'{"value":"v","version":NaN}', 400, "malformed", None),
    "JSON cut short": (b'{"value":"v"', 400, "malformed", None),
    "JSON and more": (b'{"value":"v"}{}', 400, "malformed", None),
    "JSON with a trailing comma": (b'{"value":"v",}', 400, "malformed", None),
    "no JSON": (b"value=v", 400, "malformed", None),
    "a list": (b'[{"value":"v"}]', 400, "malformed", None),
    "a text": (b'"value"', 400, "malformed", None),
    "a number": (b"5", 400, "malformed", None),
    "null": (b"null", 400, "malformed", None),
    "a lone surrogate": (b'{"value":"\\ud800"}', 400, "malformed", None),
    "bytes that are no UTF-8": (b'{"value":"\xff\xfe"}', 400, "malformed", None),
    "a byte order mark": (b'\xef\xbb\xbf{"value":"v"}', 400, "malformed", None),
    "a control character in a text": (b'{"value":"a\x00b"}', 400, "malformed", None),
    "JSON a hundred thousand deep": (b"[" * 100_000, 400, "malformed", None),
    "an object a hundred thousand deep": (b'{"value":' * 100_000, 400, "malformed", None),
    "an object five hundred deep": (b'{"value":' * 500 + b"1" + b"}" * 500, 400, "malformed", None),
    "an object a hundred deep": (b'{"value":' * 100 + b"1" + b"}" * 100, 422, "validation_error", "value"),
    "only spaces": (b" " * 1000, 400, "malformed", None),
}  # fmt: skip
"""Bodies of `PUT /secrets/…`: what is sent, the status and code, and the field that is named."""


class TestABody:
    @pytest.mark.parametrize("form", FORMS)
    async def test_that_is_wrong_is_refused_by_name(self, person: Person, form: str) -> None:
        body, status, code, field = FORMS[form]
        for path in ("/secrets/new", "/secrets/there"):
            answer = await person.put(path, content=body, headers={"content-type": "application/json"})
            problem = refused(answer, status, code)
            if field is not None:
                assert field in problem["errors"], problem
            assert "v" * 100 not in answer.text  # what was sent is not repeated

    @pytest.mark.parametrize(
        ("path", "body", "field"),
        [
            ("/workspaces", {"name": "", "slug": "a"}, "name"),
            ("/workspaces", {"name": "   ", "slug": "a"}, "name"),
            ("/workspaces", {"name": "x" * 121, "slug": "a"}, "name"),
            ("/workspaces", {"name": "a\u0000b", "slug": "a"}, "name"),
            ("/workspaces", {"name": "a\nb", "slug": "a"}, "name"),
            ("/workspaces", {"name": "a\u007fb", "slug": "a"}, "name"),
            ("/workspaces", {"name": "a", "slug": "a\n"}, "slug"),
            ("/workspaces", {"name": "a", "slug": "a\u0000"}, "slug"),
            ("/workspaces", {"name": "a", "slug": "A"}, "slug"),
            ("/workspaces", {"name": "a", "slug": "-a"}, "slug"),
            ("/workspaces", {"name": "a", "slug": "a", "timezone": "../../etc/passwd"}, "timezone"),
            ("/workspaces", {"name": "a", "slug": "a", "timezone": "Mars/Olympus"}, "timezone"),
            ("/workspaces", {"name": "a", "slug": "a", "timezone": "UTC\u0000"}, "timezone"),
            ("/workspaces", {"name": "a", "slug": "a", "id": "ws_0"}, "id"),
            ("/api-tokens", {"name": "a", "scopes": []}, "scopes"),
            ("/api-tokens", {"name": "a", "scopes": "secrets:read"}, "scopes"),
            ("/api-tokens", {"name": "a", "scopes": ["secrets:none"]}, "scopes.0"),
            ("/api-tokens", {"name": "a", "scopes": ["internal:seal"]}, "scopes.0"),
            ("/api-tokens", {"name": "a", "scopes": ["self"]}, "scopes.0"),
            ("/api-tokens", {"name": "a", "scopes": ["secrets:read"] * 1000}, "scopes"),
            ("/api-tokens", {"name": "a", "scopes": ["secrets:read"], "expires_in_days": 0}, "expires_in_days"),
            ("/api-tokens", {"name": "a", "scopes": ["secrets:read"], "expires_in_days": 366}, "expires_in_days"),
            ("/api-tokens", {"name": "a", "scopes": ["secrets:read"], "expires_in_days": True}, "expires_in_days"),
            ("/api-tokens", {"name": "a", "scopes": ["secrets:read"], "expires_in_days": "7"}, "expires_in_days"),
            ("/secrets/there/reveal", {"version": 0}, "version"),
            ("/secrets/there/reveal", {"version": "1"}, "version"),
            ("/secrets/there/reveal", {"version": 2**31}, "version"),
            ("/secrets/there/reveal", {"value": "v"}, "value"),
            ("/auth/logout", {"session": "ses_0"}, "session"),
        ],
    )
    async def test_with_a_wrong_value_is_refused_by_field(
        self, person: Person, path: str, body: dict[str, Any], field: str
    ) -> None:
        assert field in refused(await person.post(path, json=body), 422, "validation_error")["errors"]

    @pytest.mark.parametrize(
        "kind",
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"],
    )
    async def test_of_another_type_is_not_taken(self, person: Person, kind: str) -> None:
        answer = await person.put("/secrets/new", content=b'{"value":"v"}', headers={"content-type": kind})
        refused(answer, 415, "unsupported_media_type")

    @pytest.mark.parametrize("size", [MIB + 1, 8 * MIB])
    async def test_over_a_mebibyte_is_refused_by_its_length(self, stack: Stack, person: Person, size: int) -> None:
        request = head(
            "PUT", "/v1/secrets/new", Authorization=f"Bearer {person.token}", Content_Length=str(size),
            Content_Type="application/json",
        )  # fmt: skip
        problem = is_problem(await say(stack.port, request), 413, "payload_too_large")  # before any of it is sent
        assert "1048576" in problem["detail"]
        is_problem(await say(stack.port, request, b"x" * min(size, 4 * MIB)), 413, "payload_too_large")

    async def test_over_a_mebibyte_is_refused_in_chunks(self, stack: Stack, person: Person) -> None:
        request = head(
            "PUT", "/v1/secrets/new", Authorization=f"Bearer {person.token}", Transfer_Encoding="chunked",
            Content_Type="application/json",
        )  # fmt: skip
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        is_problem(await say(stack.port, request, *[chunk] * 40), 413, "payload_too_large")

    async def test_of_a_mebibyte_is_read(self, person: Person) -> None:
        body = b'{"value":"v","' + b"x" * (MIB - 18) + b'":1}'
        assert len(body) == MIB
        refused(await person.put("/secrets/new", content=body), 422, "validation_error")

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({"Content_Length": "abc"}, b""),
            ({"Content_Length": "-1"}, b""),
            ({"Content_Length": "5", "Transfer_Encoding": "chunked"}, b"0\r\n\r\n"),
            ({"Transfer_Encoding": "chunked"}, b"zz\r\n\r\n"),
        ],
        ids=["a length that is no number", "a negative length", "two lengths", "a broken chunk"],
    )
    async def test_of_no_clear_length_is_malformed(
        self, stack: Stack, person: Person, headers: dict[str, str], body: bytes
    ) -> None:
        request = head("PUT", "/v1/secrets/new", Authorization=f"Bearer {person.token}", **headers)
        is_problem(await say(stack.port, request, body), 400, "malformed")

    async def test_that_never_ends_leaves_nothing_when_the_client_goes(self, stack: Stack, person: Person) -> None:
        request = head("PUT", "/v1/secrets/new", Authorization=f"Bearer {person.token}", Content_Length="100")
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
            writer.write(request + b'{"value":')
            await writer.drain()
            writer.close()
            await writer.wait_closed()


class TestHeaders:
    @pytest.mark.parametrize("size", [33_000, 70_000, 5 * MIB])
    async def test_that_are_too_long_are_refused(self, stack: Stack, person: Person, size: int) -> None:
        request = head("GET", "/v1/secrets", Authorization=f"Bearer {person.token}", X_Long=b"x" * size)
        is_problem(await say(stack.port, request), 431, "headers_too_large")

    async def test_that_are_too_many_are_refused(self, stack: Stack) -> None:
        many = {f"X_{number}": "x" * 20 for number in range(2000)}
        is_problem(await say(stack.port, head("GET", "/v1/secrets", **many)), 431, "headers_too_large")

    async def test_with_too_long_an_address_are_refused(self, stack: Stack) -> None:
        target = f"/v1/secrets?cursor={'x' * 40_000}"
        is_problem(await say(stack.port, head("GET", target)), 431, "headers_too_large")

    async def test_that_never_end_are_refused_without_being_kept(self, stack: Stack) -> None:
        endless = [b"X: " + b"x" * 8000 + b"\r\n"] * 50
        is_problem(await say(stack.port, b"GET /v1/secrets HTTP/1.1\r\n", *endless), 431, "headers_too_large")

    @pytest.mark.parametrize(
        "request_", [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"]
    )
    async def test_that_are_no_http_are_malformed(self, stack: Stack, request_: bytes) -> None:
        is_problem(await say(stack.port, request_), 400, "malformed")

    @pytest.mark.parametrize("key", ["", " ", "with space", "x" * 256, "ü", "a\tb"])
    @pytest.mark.parametrize("target", ["PUT /v1/secrets/new", "POST /v1/workspaces", "POST /v1/api-tokens"])
    async def test_with_a_bad_idempotency_key_are_malformed(
        self, stack: Stack, person: Person, target: str, key: str
    ) -> None:
        body = {"PUT /v1/secrets/new": {"value": "v"}, "POST /v1/workspaces": {"name": "n", "slug": "n"}}
        content = orjson.dumps(body.get(target, {"name": "n", "scopes": ["secrets:read"]}))
        method, path = target.split()
        request = head(
            method, path, Authorization=f"Bearer {person.token}", Content_Length=str(len(content)), Idempotency_Key=key
        )
        is_problem(await say(stack.port, request, content), 400, "malformed")


class TestAnAddress:
    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/v1/nope", 404, "not_found"),
            ("GET", "/v2/secrets", 404, "not_found"),
            ("GET", "//v1/secrets", 404, "not_found"),
            ("GET", "/v1/secrets/", 422, "validation_error"),
            ("GET", "/v1/SECRETS", 404, "not_found"),
            ("GET", "/v1/audit/events/", 404, "not_found"),
            ("PATCH", "/v1/secrets/there", 405, "method_not_allowed"),
            ("DELETE", "/v1/workspace", 405, "method_not_allowed"),
            ("POST", "/v1/secrets", 405, "method_not_allowed"),
            ("TRACE", "/v1/secrets", 405, "method_not_allowed"),
            ("GET", "/v1/auth/exchange", 405, "method_not_allowed"),
            ("PUT", "/v1/secrets/a%00b", 422, "validation_error"),
            ("PUT", "/v1/secrets/../there", 422, "validation_error"),
            ("PUT", "/v1/secrets/a//b", 422, "validation_error"),
            ("PUT", "/v1/secrets/%2e%2e/there", 422, "validation_error"),
            ("PUT", "/v1/secrets/.hidden", 422, "validation_error"),
            ("PUT", "/v1/secrets/a%0Ab", 404, "not_found"),
            ("PUT", "/v1/secrets/caf%C3%A9", 422, "validation_error"),
            ("PUT", "/v1/secrets/%FF", 400, "malformed"),
            ("PUT", "/v1/secrets/" + "x" * 257, 422, "validation_error"),
            ("PUT", "/v1/secrets/a%20b", 422, "validation_error"),
            ("PUT", "/v1/secrets/a'--", 422, "validation_error"),
            ("DELETE", "/v1/api-tokens/tok_nope", 422, "validation_error"),
            ("DELETE", "/v1/api-tokens/ses_01m8536bgyfgqsg36why536qks", 422, "validation_error"),
            ("GET", "/v1/audit/events/%00", 422, "validation_error"),
            ("GET", "/v1/audit/events/evt_zzzzzzzzzzzzzzzzzzzzzzzzzz", 422, "validation_error"),
        ],
    )
    async def test_that_is_wrong_is_refused(
        self, stack: Stack, person: Person, method: str, path: str, status: int, code: str
    ) -> None:
        body = b'{"value":"v"}' if method == "PUT" else b""
        bearer = f"Bearer {person.token}"
        request = head(
            method, path, Authorization=bearer, Content_Type="application/json", Content_Length=str(len(body))
        )
        is_problem(await say(stack.port, request, body), status, code)

    async def test_of_bytes_that_are_no_ascii_is_malformed(self, stack: Stack, person: Person) -> None:
        request = head("GET", "/v1/secrets/café".encode(), Authorization=f"Bearer {person.token}")
        is_problem(await say(stack.port, request), 400, "malformed")

    @pytest.mark.parametrize(
        ("query", "status", "code"),
        [
            ("limit=1&limit=2", 422, "validation_error"),
            ("cls=1&cls=2", 422, "validation_error"),
            ("more=1", 422, "validation_error"),
            ("limit=", 422, "validation_error"),
            ("limit=1e2", 422, "validation_error"),
            ("limit=99999999999999999999", 422, "validation_error"),
            ("limit=%00", 422, "validation_error"),
            ("order=oldest", 422, "validation_error"),
            ("since=yesterday", 422, "validation_error"),
            ("since=2026-01-01T00:00:00", 422, "validation_error"),
            ("since=-1000000000-01-01T00:00:00Z", 422, "validation_error"),
            ("actor=", 422, "validation_error"),
            ("actor=" + "x" * 129, 422, "validation_error"),
            ("action=%00", 422, "validation_error"),
            ("action=%ff", 400, "malformed"),
            ("cursor=", 400, "malformed"),
            ("&".join(f"p{n}=1" for n in range(51)), 400, "malformed"),
        ],
    )
    async def test_with_a_wrong_query_is_refused(self, person: Person, query: str, status: int, code: str) -> None:
        refused(await person.get(f"/audit/events?{query}"), status, code)


class TestAConnection:
    async def test_goes_on_after_a_refusal_that_did_not_break_it(self, stack: Stack, person: Person) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        bearer = f"Bearer {person.token}"
        try:
            for path, status in (("/v1/nope", 404), ("/v1/secrets?more=1", 422), ("/v1/secrets", 200)):
                writer.write(head("GET", path, Authorization=bearer))
                answer = await reader.readuntil(b"\r\n\r\n")
                assert int(answer.split()[1]) == status
                length = int(answer.lower().split(b"content-length: ")[1].split()[0])
                json.loads(await reader.readexactly(length))
        finally:
            writer.close()
            await writer.wait_closed()

    async def test_that_is_refused_for_its_body_takes_no_second_request_out_of_it(
        self, stack: Stack, person: Person
    ) -> None:
        """What follows a refused head must not be read as a request (request smuggling)."""
        inner = head("PUT", "/v1/secrets/smuggled", Authorization=f"Bearer {person.token}", Content_Length="13")
        request = head("PUT", "/v1/secrets/new", Authorization=f"Bearer {person.token}", Content_Length=str(2 * MIB))
        is_problem(await say(stack.port, request, inner, b'{"value":"v"}'), 413, "payload_too_large")
        both = {"Content_Length": "4", "Transfer_Encoding": "chunked"}
        request = head("PUT", "/v1/secrets/new", Authorization=f"Bearer {person.token}", **both)
        is_problem(await say(stack.port, request, b"0\r\n\r\n", inner, b'{"value":"v"}'), 400, "malformed")
        refused(await person.get("/secrets/smuggled"), 404, "not_found")
