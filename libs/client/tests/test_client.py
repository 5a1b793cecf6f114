"""Sending calls: answers, refusals, and when a call is sent again. Every test runs with both clients."""

import json
import traceback
from typing import TYPE_CHECKING

import httpx
import pytest

from causeloop_client import AsyncClient, Client, Problem, Unreachable
from causeloop_client.calls import (
    CreateWorkspace,
    GetCheckpoint,
    GetSecret,
    GetWorkspace,
    ListSecrets,
    PutSecret,
    RevokeApiToken,
)
from causeloop_client.sending import LARGEST_ANSWER

if TYPE_CHECKING:
    from conftest import Given, Script

URL = "https://causeloop.example.com"

SECRET = {"id": "sec_1", "path": "a", "version": 1, "created_at": "…", "updated_at": "…"}
PUT = PutSecret(path="a", value="correct horse")
LOST = httpx.ReadError("cut")


def answer(status: int, *parts: bytes | Exception, **headers: str) -> "Given":
    return status, parts, headers


def done(body: object = SECRET, status: int = 200, **headers: str) -> "Given":
    return answer(status, json.dumps(body).encode(), **headers)


def refused(status: int, code: str, detail: str = "Not so.", **headers: str) -> "Given":
    return done({"code": code, "detail": detail, "status": status}, status, **headers)


class TestACall:
    def test_is_sent_as_json_with_its_token_and_answered_with_its_reply(self, script: "Script") -> None:
        script.answers(done(x_request_id="req_1"))
        assert script.send(PUT) == (SECRET, 200, "req_1", False)
        (request,) = script.requests
        assert (request.method, str(request.url)) == ("PUT", f"{URL}/v1/secrets/a")
        assert json.loads(request.content) == {"value": "correct horse"}
        assert request.headers["authorization"] == "Bearer a-token"
        assert request.headers["accept"] == "application/json"
        assert request.headers["accept-encoding"] == "identity"
        assert "idempotency-key" not in request.headers

    def test_without_a_token_sends_none(self, script: "Script") -> None:
        script.answers(done())
        script.send(GetSecret(path="a"), token="")
        assert "authorization" not in script.requests[0].headers

    def test_under_a_key_says_whether_the_answer_is_the_first_one_again(self, script: "Script") -> None:
        script.answers(done(), done(idempotency_replayed="true"))
        assert [script.send(PUT, key="mine").is_replayed for _ in range(2)] == [False, True]
        assert [request.headers["idempotency-key"] for request in script.requests] == ["mine", "mine"]

    def test_that_takes_no_key_is_given_none(self, script: "Script") -> None:
        with pytest.raises(ValueError, match=r"^GetSecret takes no Idempotency-Key\.$"):
            script.send(GetSecret(path="a"), key="mine")

    @pytest.mark.parametrize("key", ["", "a b", "a\r\nX-More: 1", "é", "k" * 256])
    def test_is_not_sent_with_a_key_that_no_gateway_takes(self, script: "Script", key: str) -> None:
        with pytest.raises(ValueError, match=r"^An Idempotency-Key is 1 to 255 visible ASCII characters\.$"):
            script.send(PUT, key=key)
        assert script.requests == []

    def test_does_not_go_to_an_address_with_a_password(self, script: "Script") -> None:
        script.url = "https://user:hunter2@causeloop.example.com"
        with pytest.raises(ValueError, match="has a user in it") as refused:
            script.client()
        assert "hunter2" not in str(refused.value)

    def test_without_an_answer_to_give_is_answered_none(self, script: "Script") -> None:
        script.answers(answer(204))
        assert script.send(RevokeApiToken(id="tok_1")).body is None

    @pytest.mark.parametrize("token", ["a\nb", "ä", "a\x1b"])
    def test_with_what_cannot_be_a_token_is_not_sent_and_does_not_show_it(self, script: "Script", token: str) -> None:
        with pytest.raises(ValueError, match=r"^The token has a character that no token has\.$"):
            script.send(PUT, token=token)
        assert script.requests == []


class TestARefusal:
    def test_is_a_problem_with_everything_that_the_gateway_says(self, script: "Script") -> None:
        body = {"code": "validation_error", "detail": "See 'errors'.", "errors": {"slug": ["is taken", "is long"]}}
        script.answers(done(body, 422, x_request_id="req_1"))
        with pytest.raises(Problem, match=r"^See 'errors'\. slug: is taken, is long\.$") as refusal:
            script.send(CreateWorkspace(name="n", slug="s"))
        problem = refusal.value
        assert (problem.status, problem.code, problem.detail) == (422, "validation_error", "See 'errors'.")
        assert problem.errors == {"slug": ["is taken", "is long"]}
        assert (problem.trace_id, problem.retry_after) == ("req_1", None)

    def test_says_when_to_come_again(self, script: "Script") -> None:
        script.answers(refused(429, "rate_limited", retry_after="7"))
        with pytest.raises(Problem) as refusal:
            script.send(PUT)
        assert refusal.value.retry_after == 7

    def test_lets_nothing_reach_a_terminal_that_it_would_obey(self, script: "Script") -> None:
        script.answers(refused(403, "forbidden", "a\x1b[2Jb\nc"))
        with pytest.raises(Problem, match=r"^a\?\[2Jb\?c$"):
            script.send(PUT)

    @pytest.mark.parametrize(
        "body",
        [b"<html>", b"[]", b"{}", b"null", b'{"code": "x"}', b'{"code":"x","detail":"y","errors":[1]}', b"[" * 100_000],
        ids=range(7),
    )
    def test_that_is_none_of_a_gateway_is_a_problem_without_a_code(self, script: "Script", body: bytes) -> None:
        script.answers(answer(502, body))
        with pytest.raises(Problem, match=r"^The gateway answered 502, and not as a gateway does\.$") as refusal:
            script.send(PUT)
        assert (refusal.value.status, refusal.value.code) == (502, "")

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id": "sec_1"}', b"[" * 100_000], ids=range(5))
    def test_that_looks_like_success_is_one(self, script: "Script", body: bytes) -> None:
        script.answers(answer(200, body))
        with pytest.raises(Problem, match=r"^The gateway answered 200, and not as a gateway does\.$"):
            script.send(PUT)

    def test_is_also_an_answer_that_leads_elsewhere(self, script: "Script") -> None:
        script.answers(answer(307, location="https://elsewhere.example.com/"))
        with pytest.raises(Problem, match="The gateway answered 307"):
            script.send(PUT)
        assert len(script.requests) == 1


class TestNoAnswer:
    def test_is_unreachable_with_the_address_and_the_kind(self, script: "Script") -> None:
        script.answers(httpx.ConnectError("refused"))
        with pytest.raises(Unreachable, match=rf"^Nobody answers at {URL}: ConnectError\.$"):
            script.send(PUT)

    def test_is_one_that_is_cut(self, script: "Script") -> None:
        script.answers(answer(200, b'{"id":', LOST))
        with pytest.raises(Unreachable, match=r"ReadError\.$"):
            script.send(PUT)

    def test_is_one_that_does_not_end(self, script: "Script") -> None:
        script.answers(answer(200, *[b" " * 1024 * 1024] * (LARGEST_ANSWER // 1024 // 1024 + 1)))
        with pytest.raises(Unreachable, match=r"^The answer is larger than a gateway's answer is\.$"):
            script.send(PUT)

    def test_shows_no_token_and_no_secret(self, script: "Script") -> None:
        token = "the" + "-token"
        script.answers(httpx.ConnectError("refused"))
        with pytest.raises(Unreachable) as failure:
            script.send(PUT, token=token)
        shown = "".join(traceback.format_exception(failure.value)) + repr(script.client(token))
        assert token not in shown
        assert "correct horse" not in shown


class TestPatience:
    def test_of_nothing_sends_once(self, script: "Script") -> None:
        script.answers(refused(503, "unavailable"))
        with pytest.raises(Problem):
            script.send(PUT)
        assert script.waits == []

    def test_sends_again_under_one_key_until_it_is_answered(self, script: "Script") -> None:
        lost, unavailable, timeout = httpx.ConnectError("refused"), refused(503, "unavailable"), refused(504, "timeout")
        script.answers(lost, unavailable, timeout, answer(502), answer(200, b"{", LOST), done())
        assert script.send(PUT, patience=60).body == SECRET
        (key,) = {request.headers["idempotency-key"] for request in script.requests}
        assert len(key) >= 32
        assert {request.content for request in script.requests} == {b'{"value":"correct horse"}'}
        assert script.waits == [0.2, 0.4, 0.8, 1.6, 3.2]

    def test_gives_every_call_a_key_of_its_own(self, script: "Script") -> None:
        script.answers(done(), done(), done())
        for _ in range(2):
            script.send(PUT, patience=1)
        script.send(PUT, key="mine", patience=1)
        first, second, third = (request.headers["idempotency-key"] for request in script.requests)
        assert first != second
        assert third == "mine"

    def test_sends_what_takes_no_key_again_without_one(self, script: "Script") -> None:
        script.answers(LOST, done())
        assert script.send(GetSecret(path="a"), patience=60).body == SECRET
        assert "idempotency-key" not in script.requests[1].headers

    def test_waits_as_long_as_the_gateway_asks(self, script: "Script") -> None:
        script.answers(refused(429, "rate_limited", retry_after="7"), done())
        script.send(PUT, patience=60)
        assert script.waits == [7]

    def test_does_not_wait_for_what_comes_too_late(self, script: "Script") -> None:
        script.answers(refused(429, "rate_limited", retry_after="61"))
        with pytest.raises(Problem):
            script.send(PUT, patience=60)
        assert script.waits == []

    def test_ends(self, script: "Script") -> None:
        script.answers(*[httpx.ConnectError("refused")] * 100)
        with pytest.raises(Unreachable):
            script.send(PUT, patience=30)
        assert 25 <= sum(script.waits) <= 30

    def test_waits_for_the_first_request_with_its_key(self, script: "Script") -> None:
        script.answers(LOST, refused(409, "idempotency_in_progress"), done(idempotency_replayed="true"))
        assert script.send(PUT, patience=60).is_replayed

    @pytest.mark.parametrize(
        ("status", "code"),
        [(400, "malformed"), (401, "unauthorized"), (404, "not_found"), (409, "conflict"), (500, "")],
    )
    def test_does_not_repeat_what_is_refused_for_good(self, script: "Script", status: int, code: str) -> None:
        script.answers(refused(status, code))
        with pytest.raises(Problem):
            script.send(PUT, patience=60)
        assert script.waits == []


class TestAList:
    def test_is_gone_through_page_by_page(self, script: "Script") -> None:
        for names, cursor in ((("a", "b"), "c1"), ((), "c2"), (("c",), None)):
            page = {"next_cursor": cursor, "has_more": cursor is not None}
            script.answers(done({"data": [{**SECRET, "path": name} for name in names], "page": page}))
        found = script.all(lambda client: client.items(ListSecrets(limit=2)), [])
        assert [secret["path"] for secret in found] == ["a", "b", "c"]
        assert [dict(request.url.params) for request in script.requests] == [
            {"limit": "2"}, {"limit": "2", "cursor": "c1"}, {"limit": "2", "cursor": "c2"},
        ]  # fmt: skip


class TestAClient:
    def test_takes_another_token_from_the_next_call_on(self) -> None:
        seen: list[str] = []

        def handle(request: httpx.Request) -> httpx.Response:
            seen.append(request.headers["authorization"])
            return httpx.Response(200, stream=httpx.ByteStream(b'{"checkpoint": "", "root": "", "size": 0}'))

        client = Client(f"{URL}/", "first", http=httpx.Client(transport=httpx.MockTransport(handle)))
        client.send(GetCheckpoint())
        client.token = "second"
        client.send(GetCheckpoint())
        assert seen == ["Bearer first", "Bearer second"]
        assert client.url == URL

    def test_closes_its_own_connections_and_not_those_it_was_given(self) -> None:
        mine = httpx.Client()
        with Client(URL, http=mine):
            pass
        assert not mine.is_closed
        mine.close()
        with Client(URL) as client:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            client.send(GetWorkspace())

    def test_leaves_an_answer_to_the_hooks_of_the_connections_it_was_given(self) -> None:
        seen: list[bytes] = []

        def handle(_: httpx.Request) -> httpx.Response:
            return httpx.Response(409, stream=httpx.ByteStream(b'{"code":"conflict","detail":"Not so."}'))

        def look(response: httpx.Response) -> None:
            seen.append(response.read())

        with httpx.Client(transport=httpx.MockTransport(handle), event_hooks={"response": [look]}) as http:
            client = Client(URL, http=http)
            with pytest.raises(Problem, match="Not so"):
                client.send(PUT)
        assert len(seen) == 1

    async def test_of_asyncio_does_too(self) -> None:
        async with httpx.AsyncClient() as mine:
            async with AsyncClient(URL, http=mine):
                pass
            assert not mine.is_closed
        async with AsyncClient(URL) as client:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await client.send(GetWorkspace())
