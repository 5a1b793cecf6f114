"""The checks of every command, whichever service sent it: token, issuer, permission, deadline, fields."""

import json
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from nats.aio.msg import Msg

from causeloop_common import ids
from causeloop_common.context import Assurance, AuthContext, ServiceTokens
from causeloop_common.contracts.vault import GetSecret, PutSecret, Seal, SealedData, SecretView
from causeloop_common.errors import Forbidden, InvalidInput, MfaRequired
from causeloop_common.keys import Sealer
from causeloop_common.messaging import Bus, CommandRouter
from causeloop_common.messaging.wire import CLOCK, DEADLINE, ERROR, ERROR_CODE, TOKEN
from causeloop_common.telemetry import metrics

Connect = Callable[[str], Awaitable[Bus]]
Serve = Callable[..., Awaitable[Bus]]
Raw = Callable[..., Coroutine[Any, Any, Msg]]

CANARY = "s3cr3t-canary"
GET = GetSecret(path="a/b")
PUT = PutSecret.model_validate({"path": "a/b", "value": CANARY})


@pytest.fixture
def ran() -> list[Any]:
    """The commands that reached a handler."""
    return []


@pytest.fixture
async def vault(serve: Serve, ran: list[Any]) -> Bus:
    """A vault that notes what it runs."""
    now = datetime.now(UTC)

    async def get_secret(ctx: AuthContext, command: Any) -> SecretView:
        ran.append(command)
        return SecretView(id=ids.new("sec"), path=command.path, version=1, created_at=now, updated_at=now)

    async def put_secret(ctx: AuthContext, command: PutSecret) -> SecretView:
        return await get_secret(ctx, command)

    async def seal(ctx: AuthContext, command: Seal) -> SealedData:
        ran.append(command)
        return SealedData(ciphertext="clv1:1:AAAA")

    return await serve("vault", CommandRouter({Seal: seal, GetSecret: get_secret, PutSecret: put_secret}))


@pytest.fixture
async def raw(vault: Bus, bus: Connect) -> Raw:
    """Sends what the test writes from a service's connection: `await raw(GetSecret, token, body, headers)`."""
    connections = {service: await bus(service) for service in ("gateway", "auth")}

    async def send(
        kind: Any, token: str, body: bytes, headers: dict[str, str] | None = None, sender: str = "gateway"
    ) -> Msg:
        honest = {TOKEN: token, DEADLINE: str(int(time.time() * 1000) + 5000)}
        shown = {name: value for name, value in {**honest, **(headers or {})}.items() if value}
        return await connections[sender]._replies.ask(kind.subject, body, shown, 2)

    return send


@pytest.fixture
def tokens(house: Any) -> Callable[[str], ServiceTokens]:
    return lambda service: ServiceTokens(house.settings(service).keyring())


def refusal(message: Msg) -> tuple[str, str]:
    headers = message.headers or {}
    return headers.get(ERROR_CODE, ""), headers.get(ERROR, "")


class TestToken:
    async def test_the_honest_command_of_these_tests_is_answered(
        self, raw: Raw, tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        answer = await raw(GetSecret, tokens("gateway").mint(workspace, "vault"), GET.to_json())

        assert orjson.loads(answer.data)["path"] == "a/b"

    @pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
    async def test_none_or_nonsense_is_unauthorized(self, raw: Raw, ran: list[Any], token: str) -> None:
        assert refusal(await raw(GetSecret, token, GET.to_json())) == (
            "unauthorized",
            "The service token is not valid for this service.",
        )
        assert ran == []

    async def test_one_for_another_service_is_unauthorized(
        self, raw: Raw, ran: list[Any], tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        answer = await raw(GetSecret, tokens("gateway").mint(workspace, "audit"), GET.to_json())

        assert refusal(answer)[0] == "unauthorized"
        assert ran == []

    async def test_the_tenant_comes_from_it(self, serve: Serve, bus: Connect, workspace: AuthContext) -> None:
        heard: list[str] = []

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            heard.append(ctx.tenant)
            raise Forbidden("No.")

        await serve("vault", CommandRouter({GetSecret: get_secret}))
        gateway, other = await bus("gateway"), replace(workspace, tenant=ids.new("ws"))
        for ctx in (workspace, other):
            with pytest.raises(Forbidden, match="No"):
                await gateway.call(ctx, GET)

        assert heard == [workspace.tenant, other.tenant]


class TestRight:
    async def test_an_issuer_that_may_not_ask_is_refused_whatever_it_may_do(
        self, raw: Raw, ran: list[Any], tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        answer = await raw(GetSecret, tokens("auth").mint(workspace, "vault"), GET.to_json())

        assert refusal(answer) == ("forbidden", "This needs the permission 'secrets:read'.")
        assert ran == []

    async def test_the_gateway_may_not_ask_what_is_auths(
        self, raw: Raw, ran: list[Any], tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        ctx = replace(workspace, permissions=frozenset({"internal:seal"}))

        answer = await raw(Seal, tokens("gateway").mint(ctx, "vault"), b"{}", sender="auth")

        assert refusal(answer) == ("forbidden", "This needs the permission 'internal:seal'.")
        assert ran == []

    async def test_a_command_with_step_up_needs_a_fresh_sign_in(
        self, vault: Bus, bus: Connect, workspace: AuthContext, ran: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The gateway asks for it, too; a service trusts the claims and not the asker."""
        monkeypatch.setattr(GetSecret, "step_up", True)
        gateway, now = await bus("gateway"), int(time.time())
        for ctx in (workspace, replace(workspace, assurance=Assurance.SINGLE, authenticated_at=now - 700)):
            with pytest.raises(MfaRequired, match="This needs a sign-in of the last 10 minutes"):
                await gateway.call(ctx, GET)
        assert ran == []
        await gateway.call(replace(workspace, assurance=Assurance.SINGLE, authenticated_at=now), GET)
        assert ran == [GET]

    async def test_a_missing_permission_is_named(
        self, vault: Bus, bus: Connect, ran: list[Any], as_user: Callable[..., AuthContext]
    ) -> None:
        viewer = as_user(ids.new("ws"), role="viewer")

        with pytest.raises(Forbidden, match="This needs the permission 'secrets:write'"):
            await (await bus("gateway")).call(viewer, PUT)
        assert ran == []

    async def test_an_answer_goes_to_the_askers_inbox_and_nowhere_else(
        self, vault: Bus, bus: Connect, ran: list[Any], tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        gateway, astray = await bus("gateway"), metrics.COMMANDS.labels(GetSecret.subject, "astray")
        before = astray._value.get()
        headers = {
            TOKEN: tokens("gateway").mint(workspace, "vault"),
            DEADLINE: str(int(time.time() * 1000) + 5000),
        }
        inboxes = ("_INBOX.tenancy.vault.x", "_INBOX.gateway.x", "_INBOX.gateway.auth.x")
        for reply in ("", f"evt.{workspace.tenant}.vault.secret_written", "dead.vault.x", *inboxes):
            await gateway.client.publish(GetSecret.subject, GET.to_json(), reply=reply, headers=headers)
        await gateway.call(workspace, GET)  # what came before it was received

        assert len(ran) == 1
        assert astray._value.get() == before + 6


class TestDeadline:
    @pytest.mark.parametrize("deadline", ["", "soon", "1.5"])
    async def test_a_command_without_one_is_refused(
        self, raw: Raw, ran: list[Any], tokens: Callable[[str], ServiceTokens], workspace: AuthContext, deadline: str
    ) -> None:
        token = tokens("gateway").mint(workspace, "vault")

        answer = await raw(GetSecret, token, GET.to_json(), {DEADLINE: deadline})

        assert refusal(answer) == ("unauthorized", "The command carries no deadline.")
        assert ran == []

    async def test_what_arrives_after_it_is_not_run_and_is_refused_with_the_clock(
        self,
        raw: Raw,
        ran: list[Any],
        tokens: Callable[[str], ServiceTokens],
        workspace: AuthContext,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """E34: it may be late by this clock alone, and then somebody waits."""
        token, past = tokens("gateway").mint(workspace, "vault"), str(int(time.time() * 1000) - 1000)
        with caplog.at_level("WARNING"):
            for _ in range(3):
                answer = await raw(GetSecret, token, GetSecret(path="late").to_json(), {DEADLINE: past})
                assert refusal(answer) == (
                    "unavailable",
                    "By the vault service's clock this came too late. Nothing was done; try again.",
                )
                assert answer.headers is not None
                assert abs(int(answer.headers[CLOCK]) - time.time() * 1000) < 2000
        assert ran == []
        lines = [record.getMessage() for record in caplog.records if "after its deadline" in record.getMessage()]
        assert len(lines) == 1
        assert re.match(r"cmd\.vault\.get_secret arrives 1\.\d s after its deadline: this host's clock", lines[0])


class TestFields:
    @pytest.mark.parametrize(
        ("body", "fields"),
        [
            (b"{}", {"path": ["Field required"]}),
            (b'{"path": "a", "surprise": 1}', {"surprise": ["Extra inputs are not permitted"]}),
            (b'{"path": 7}', {"path": ["Input should be a valid string"]}),
            (b"[]", {"body": ["Input should be an object"]}),
        ],
    )
    async def test_what_does_not_fit_is_reported_field_by_field(
        self,
        raw: Raw,
        ran: list[Any],
        tokens: Callable[[str], ServiceTokens],
        workspace: AuthContext,
        body: bytes,
        fields: dict[str, list[str]],
    ) -> None:
        answer = await raw(GetSecret, tokens("gateway").mint(workspace, "vault"), body)

        assert refusal(answer)[0] == "validation_error"
        assert json.loads(answer.data) == {"fields": fields}
        assert ran == []

    @pytest.mark.parametrize("body", [b"", b"not json", b"\xff\xfe", b'{"path": "\\ud800"}'])
    async def test_what_is_no_json_is_refused_as_the_body(
        self, raw: Raw, ran: list[Any], tokens: Callable[[str], ServiceTokens], workspace: AuthContext, body: bytes
    ) -> None:
        answer = await raw(GetSecret, tokens("gateway").mint(workspace, "vault"), body)

        assert refusal(answer)[0] == "validation_error"
        assert list(json.loads(answer.data)["fields"]) == ["body"]
        assert ran == []

    async def test_a_secret_in_clear_is_refused_and_not_repeated(
        self, raw: Raw, ran: list[Any], tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        body = orjson.dumps({"path": "a/b", "value": CANARY})

        answer = await raw(PutSecret, tokens("gateway").mint(workspace, "vault"), body)

        assert json.loads(answer.data) == {"fields": {"body": ["is not sealed for this receiver and message"]}}
        assert CANARY not in repr(answer)
        assert ran == []

    async def test_a_secret_sealed_for_another_tenant_or_message_is_refused(
        self, raw: Raw, ran: list[Any], house: Any, tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        sealer, token = Sealer(house.settings("gateway").keyring().pair("gateway", "vault")), tokens("gateway")
        honest = sealer.seal(PUT.to_json(), f"cmd.vault.put_secret:{workspace.tenant}")
        other = sealer.seal(PUT.to_json(), f"cmd.vault.put_secret:{ids.new('ws')}")
        answer = sealer.seal(PUT.to_json(), f"cmd.vault.put_secret.reply:{workspace.tenant}")
        pair = Sealer(house.settings("auth").keyring().pair("auth", "vault"))
        of_another_pair = pair.seal(PUT.to_json(), f"cmd.vault.put_secret:{workspace.tenant}")

        for body in (other, answer, of_another_pair, honest[:-1], honest[1:], b""):
            refused = await raw(PutSecret, token.mint(workspace, "vault"), body)
            assert refusal(refused)[0] == "validation_error"
            assert json.loads(refused.data) == {"fields": {"body": ["is not sealed for this receiver and message"]}}
        assert ran == []
        await raw(PutSecret, token.mint(workspace, "vault"), honest)
        assert ran == [PUT]

    async def test_the_asker_gets_them_as_an_error(self, bus: Connect, vault: Bus, workspace: AuthContext) -> None:
        wrong = GetSecret.model_construct(path="/no")

        with pytest.raises(InvalidInput) as refused:
            await (await bus("gateway")).call(workspace, wrong)

        assert list(refused.value.fields or {}) == ["path"]
