"""From HTTP to a command and back: every route against its contract, and requests against the real services."""

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_common.context import STEP_UP_SECONDS, AuthContext
from causeloop_common.contracts import jobs, topology
from causeloop_common.contracts.auth import Authenticate
from causeloop_common.contracts.base import Command, Nothing
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.errors import MfaRequired
from causeloop_common.messaging import Answer
from causeloop_common.permissions import OF_THE_JOB, SELF, Internal, Permission
from causeloop_gateway import commands as module
from causeloop_gateway.commands import CommandRoute
from causeloop_gateway.documents import openapi
from causeloop_gateway.endpoints import SESSION, Endpoint
from causeloop_gateway.routes import ENDPOINTS, STREAMS

if TYPE_CHECKING:
    from conftest import House, Person

EACH = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.command.operation)


@pytest.fixture
async def owner(house: "House") -> "Person":
    return await house.sign_up()


class TestRoutes:
    def test_every_command_that_the_gateway_may_issue_has_one_but_its_own_two_questions(self) -> None:
        own: set[Any] = {Authenticate, Resolve}
        may = {
            next((kind for kind in jobs.COMMANDS if issubclass(one, kind)), one)
            for one in topology.command_kinds().values()
            if "gateway" in one.issuers
        }
        endpoints = [*ENDPOINTS, *STREAMS]
        assert {endpoint.command for endpoint in endpoints} == may - own
        assert len({endpoint.command for endpoint in endpoints}) == len(endpoints)

    def test_no_two_have_the_same_address(self) -> None:
        addresses = [(endpoint.method, endpoint.path) for endpoint in (*ENDPOINTS, *STREAMS)]
        assert len(set(addresses)) == len(addresses)

    @EACH
    def test_path_and_hidden_fields_are_the_command_s(self, endpoint: Endpoint) -> None:
        assert {*endpoint.path_fields, *endpoint.from_client} <= set(endpoint.command.model_fields)

    @EACH
    def test_what_only_a_service_may_do_is_open_to_nobody_with_a_token(self, endpoint: Endpoint) -> None:
        if endpoint.credentials:
            assert endpoint.command.permission in {SELF, OF_THE_JOB, *Permission}
        else:
            assert endpoint.command.permission == Internal.SIGN_IN

    @EACH
    def test_a_personal_access_token_reaches_no_route_of_the_person_or_of_tokens(self, endpoint: Endpoint) -> None:
        if endpoint.path.startswith(("/me/", "/api-tokens", "/auth/logout")):
            assert endpoint.credentials == SESSION

    @EACH
    def test_reading_does_not_change_and_an_empty_answer_is_204(self, endpoint: Endpoint) -> None:
        if endpoint.method == "GET":
            assert not endpoint.command.keyed
        assert (endpoint.command.reply is Nothing) == (endpoint.status == 204)

    @EACH
    async def test_without_a_token_nothing_is_done(self, house: "House", endpoint: Endpoint) -> None:
        if endpoint.credentials:
            path = endpoint.path.replace("{id}", "x").replace("{path:path}", "a")
            await house.refused(401, "unauthorized", endpoint.method, path)


class TestFields:
    async def test_an_unknown_one_in_the_body_is_named(self, house: "House", owner: "Person") -> None:
        body = {"value": "v", "vlaue": "w", "cls": 1, "position": 2}
        problem = await house.refused(422, "validation_error", "PUT", "/secrets/a", owner.token, json=body)
        assert problem["errors"] == {name: ["is not a field of this request"] for name in ("vlaue", "cls", "position")}

    async def test_of_very_many_unknown_ones_some_are_named(self, house: "House", owner: "Person") -> None:
        body = {f"{number:x}": 0 for number in range(10_000)}
        problem = await house.refused(422, "validation_error", "POST", "/workspaces", owner.realm_token, json=body)
        assert list(problem["errors"]) == list(body)[:25]

    async def test_an_unknown_one_in_the_query_is_named(self, house: "House", owner: "Person") -> None:
        problem = await house.refused(422, "validation_error", "GET", "/secrets?limt=1", owner.token)
        assert problem["errors"] == {"limt": ["is not a field of this request"]}

    async def test_one_given_twice_is_named(self, house: "House", owner: "Person") -> None:
        problem = await house.refused(422, "validation_error", "GET", "/secrets?limit=1&limit=2", owner.token)
        assert problem["errors"] == {"limit": ["is given more than once"]}

    async def test_the_inner_name_of_a_cursor_is_none(self, house: "House", owner: "Person") -> None:
        problem = await house.refused(422, "validation_error", "GET", "/secrets?position=a", owner.token)
        assert problem["errors"] == {"position": ["is not a parameter; use cursor"]}

    async def test_what_the_path_gives_the_body_may_not(self, house: "House", owner: "Person") -> None:
        body = {"value": "v", "path": "other"}
        problem = await house.refused(422, "validation_error", "PUT", "/secrets/a", owner.token, json=body)
        assert set(problem["errors"]) == {"path"}

    @pytest.mark.parametrize("field", ["address", "device"])
    async def test_what_the_gateway_adds_the_client_may_not(self, house: "House", field: str) -> None:
        body = {"subject_token": await house.subject_token(), field: "127.0.0.1"}
        problem = await house.refused(422, "validation_error", "POST", "/auth/exchange", json=body)
        assert set(problem["errors"]) == {field}

    async def test_a_wrong_one_is_named_and_its_value_not_repeated(self, house: "House", owner: "Person") -> None:
        body = {"value": ["s3cr3t-canary"], "version": "s3cr3t-canary"}
        problem = await house.refused(422, "validation_error", "PUT", "/secrets/a", owner.token, json=body)
        assert set(problem["errors"]) == {"value", "version"}
        assert "canary" not in str(problem)

    @pytest.mark.parametrize(
        ("content", "detail"),
        [
            ("{", "The body is not JSON"),
            ("[]", "The body must be a JSON object."),
            ('"x"', "The body must be a JSON object."),
            (b"\xff", "The body is not JSON"),
            ("[" * 100_000, "The body is not JSON"),
        ],
    )
    async def test_a_body_that_is_no_object_is_malformed(
        self, house: "House", owner: "Person", content: str | bytes, detail: str
    ) -> None:
        problem = await house.refused(400, "malformed", "PUT", "/secrets/a", owner.token, content=content)
        assert problem["detail"].startswith(detail)

    async def test_a_body_of_another_kind_is_not_taken(self, house: "House", owner: "Person") -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
            problem = await house.refused(
                415,
                "unsupported_media_type",
                "PUT",
                "/secrets/a",
                owner.token,
                content="{}",
                headers={"content-type": kind},
            )
            assert problem["detail"] == "Send the body as application/json."
        kind = "Application/JSON; charset=utf-8"
        body = '{"value": "v"}'
        await house.body("PUT", "/secrets/a", owner.token, content=body, headers={"content-type": kind})


class TestAnswers:
    async def test_a_page_says_where_it_goes_on_and_whether_it_does(self, house: "House", owner: "Person") -> None:
        for name in "abc":
            await house.body("PUT", f"/secrets/{name}", owner.token, json={"value": "v"})
        first = await house.body("GET", "/secrets?limit=2", owner.token)
        assert set(first) == {"data", "page"}
        assert [secret["path"] for secret in first["data"]] == ["a", "b"]
        assert set(first["page"]) == {"next_cursor", "has_more"}
        assert first["page"]["has_more"] is True

        last = await house.body("GET", f"/secrets?limit=2&cursor={first['page']['next_cursor']}", owner.token)
        assert [secret["path"] for secret in last["data"]] == ["c"]
        assert last["page"] == {"next_cursor": None, "has_more": False}

    async def test_a_cursor_of_another_tenant_or_list_is_malformed(self, house: "House", owner: "Person") -> None:
        for name in "ab":
            await house.body("PUT", f"/secrets/{name}", owner.token, json={"value": "v"})
        cursor = (await house.body("GET", "/secrets?limit=1", owner.token))["page"]["next_cursor"]
        other = await house.sign_up()
        for path, token in (("/secrets", other.token), ("/api-tokens", owner.token), ("/me/workspaces", owner.token)):
            await house.refused(400, "malformed", "GET", f"{path}?cursor={cursor}", token)

    async def test_a_secret_is_shown_to_the_client_in_clear(self, house: "House", owner: "Person") -> None:
        await house.body("PUT", "/secrets/deep/path", owner.token, json={"value": "s3cr3t \u2013"})
        shown = await house.body("POST", "/secrets/deep/path/reveal", owner.token)
        assert (shown["path"], shown["value"]) == ("deep/path", "s3cr3t \u2013")
        hidden = await house.call("GET", "/secrets/deep/path", owner.token)
        assert "s3cr3t" not in hidden.text

    async def test_an_empty_answer_has_neither_body_nor_length(self, house: "House", owner: "Person") -> None:
        answer = await house.call("POST", "/auth/logout", owner.token)
        assert (answer.status_code, answer.content) == (204, b"")
        assert not {"content-length", "content-type"} & set(answer.headers)

    async def test_a_replay_says_so(self, house: "House", owner: "Person") -> None:
        keyed = {"idempotency-key": "k"}
        first, again = [
            await house.call("PUT", "/secrets/a", owner.token, json={"value": "v"}, headers=keyed) for _ in range(2)
        ]
        assert first.json() == again.json()
        assert [one.headers.get("idempotency-replayed") for one in (first, again)] == [None, "true"]
        for path, body in (("/secrets/a", {"value": "other"}), ("/secrets/b", {"value": "v"})):
            await house.refused(422, "idempotency_mismatch", "PUT", path, owner.token, json=body, headers=keyed)

    async def test_a_workspace_made_twice_with_one_key_is_one_and_without_a_key_two(
        self, house: "House", owner: "Person"
    ) -> None:
        body = {"name": "B", "slug": "b"}
        made = [
            (await house.body("POST", "/workspaces", owner.realm_token, json=body, headers=headers))["id"]
            for headers in ({"idempotency-key": "k"}, {"idempotency-key": "k"}, {}, {})
        ]
        assert len(set(made)) == 3
        assert made[0] == made[1]

    async def test_what_belongs_to_another_workspace_is_not_found(self, house: "House", owner: "Person") -> None:
        await house.body("PUT", "/secrets/theirs", owner.token, json={"value": "v"})
        stranger = await house.sign_up()
        for path in ("/secrets/theirs", "/secrets/nobody-s"):
            problem = await house.refused(404, "not_found", "GET", path, stranger.token)
            assert path.rpartition("/")[2] in problem["detail"]
        made = await house.personal_token(owner, "secrets:read")
        for token in (made["id"], ids.new("tok")):
            await house.refused(404, "not_found", "DELETE", f"/api-tokens/{token}", stranger.token)

    async def test_an_address_or_method_that_is_not_offered_is_distinguished(self, house: "House") -> None:
        await house.refused(404, "not_found", "GET", "/nowhere")
        await house.refused(404, "not_found", "GET", "/workspace/")
        await house.refused(405, "method_not_allowed", "DELETE", "/workspace")


class Danger(Command[Nothing], permission=Permission.WORKSPACE_READ, keyed=False, step_up=True):
    """A command of these tests that asks for a fresh sign-in."""


class TestStepUp:
    @pytest.fixture
    async def danger(self, house: "House", monkeypatch: pytest.MonkeyPatch) -> None:
        edge: Any = house.listener.config.app
        (known, *_) = edge._routes["GET", "workspace"]
        route = CommandRoute(known._gateway, Endpoint("POST", "/danger", Danger, 204))

        async def done(ctx: AuthContext, command: bytes) -> Answer:
            return Answer(b"{}", replayed=False)

        monkeypatch.setattr(route, "_ask", done)
        monkeypatch.setitem(edge._routes, ("POST", "danger"), [route])

    async def test_a_recent_sign_in_may(self, house: "House", danger: None, owner: "Person") -> None:
        assert (await house.call("POST", "/danger", owner.token)).status_code == 204

    async def test_an_old_one_and_a_personal_access_token_may_not(
        self, house: "House", danger: None, owner: "Person", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = await house.personal_token(owner, "workspace:read")
        await house.refused(403, "mfa_required", "POST", "/danger", made["token"])
        now = time.time()
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now + STEP_UP_SECONDS + 60))
        problem = await house.refused(403, "mfa_required", "POST", "/danger", owner.token)
        assert problem["detail"] == "This needs a sign-in of the last 10 minutes. Sign in again, then repeat it."

    async def test_the_permission_is_asked_first(self, house: "House", danger: None, owner: "Person") -> None:
        await house.refused(403, "forbidden", "POST", "/danger", owner.realm_token)

    def test_the_description_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        endpoint = Endpoint("POST", "/danger", Danger, 204)
        monkeypatch.setattr(openapi, "ENDPOINTS", (*ENDPOINTS, endpoint))
        assert MfaRequired in {type(error) for error in openapi.refusals(endpoint)}
        assert openapi._Writer()._operation(endpoint)["x-step-up"] is True
