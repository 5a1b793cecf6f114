"""Auth on the bus: every command reaches its use case, and nobody's reaches it who may not."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_common.application import Application
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts import auth
from causeloop_common.contracts.auth import (
    Authenticate,
    CreateApiToken,
    Exchange,
    Grant,
    ListApiTokens,
    Logout,
    Refresh,
    RevokeApiToken,
)
from causeloop_common.contracts.base import Command, Nothing, commands
from causeloop_common.errors import (
    Forbidden,
    InvalidGrant,
    InvalidInput,
    NotFound,
    SecretAlreadyShown,
    Unauthorized,
)
from causeloop_common.messaging import Bus
from causeloop_common.permissions import OF_THE_JOB, ROLES, SELF, Permission
from tests.support.overhearing import overhear

if TYPE_CHECKING:
    from conftest import House

pytestmark = pytest.mark.usefixtures("answering")
CREATE = CreateApiToken(name="ci", scopes=[Permission.SECRETS_READ])


@pytest.fixture
async def asker(gateway: Bus, answering: Application) -> Bus:
    """The gateway's bus, once auth answers on it."""
    await answering.bus.client.flush()
    return gateway


@pytest.fixture
def gateway_ctx() -> AuthContext:
    held = frozenset({"internal:sign_in", "internal:authenticate"})
    return AuthContext(tenant=ids.INSTALLATION, principal="svc_gateway", permissions=held, request_id=ids.new("req"))


async def sign_in(house: "House", asker: Bus, ctx: AuthContext, subject: str) -> Grant:
    return await asker.call(ctx, Exchange.model_validate({"subject_token": house.issuer.sign(subject)}))


class TestSigningIn:
    async def test_exchange_authenticate_refresh_and_logout(
        self, house: "House", asker: Bus, gateway_ctx: AuthContext
    ) -> None:
        subject = house.subject()
        grant = await sign_in(house, asker, gateway_ctx, subject)
        token = grant.access_token.get_secret_value()
        identity = await asker.call(gateway_ctx, Authenticate.model_validate({"token": token}))
        assert identity.principal == house.person(subject)

        refresh = Refresh.model_validate({"refresh_token": grant.refresh_token.get_secret_value()})
        assert (await asker.call(gateway_ctx, refresh)).workspace_id is None

        caller = AuthContext(
            tenant=identity.tenant,
            principal=identity.principal,
            permissions=frozenset({SELF}),
            credential=identity.credential,
            request_id=ids.new("req"),
        )
        assert await asker.call(caller, Logout()) == Nothing()
        with pytest.raises(Unauthorized, match="is not, or no longer, valid"):
            await asker.call(gateway_ctx, Authenticate.model_validate({"token": token}))

    async def test_the_answer_s_secrets_are_sealed_on_the_way(
        self, house: "House", asker: Bus, gateway_ctx: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_the_bus = overhear(asker, monkeypatch)
        command = Exchange.model_validate({"subject_token": house.issuer.sign(house.subject())})
        answer = await asker.request(gateway_ctx, Exchange, command.to_json())
        assert len(on_the_bus) == 2
        for body in on_the_bus:
            assert b"clp_rt_" not in body
            assert b"eyJ" not in body
        grant = Grant.from_json(answer.body)
        assert grant.refresh_token.get_secret_value().startswith("clp_rt_")

    async def test_a_refusal_arrives_with_its_sentence(
        self, house: "House", asker: Bus, gateway_ctx: AuthContext
    ) -> None:
        with pytest.raises(InvalidGrant, match="The subject token has expired"):
            await asker.call(
                gateway_ctx, Exchange.model_validate({"subject_token": house.issuer.sign(house.subject(), exp=1)})
            )


class TestTokens:
    async def test_create_list_and_revoke(self, house: "House", asker: Bus, workspace: AuthContext) -> None:
        made = await asker.call(workspace, CREATE)
        assert made.token.get_secret_value().startswith(f"clp_pat_{workspace.tenant}_")
        (listed,) = (await asker.call(workspace, ListApiTokens())).data
        assert (listed.id, listed.owner) == (made.id, workspace.principal)
        assert await asker.call(workspace, RevokeApiToken(id=made.id)) == Nothing()
        with pytest.raises(NotFound, match="There is no such token"):
            await asker.call(workspace, RevokeApiToken(id=ids.new("tok")))

    async def test_a_replay_of_what_showed_a_secret_is_refused_with_the_id(
        self, asker: Bus, workspace: AuthContext
    ) -> None:
        keyed = replace(workspace, idempotency=Idempotency("key", "print"))
        made = await asker.call(keyed, CREATE)
        with pytest.raises(SecretAlreadyShown, match=made.id) as again:
            await asker.call(keyed, CREATE)
        assert again.value.fields == {"id": [made.id]}

    async def test_a_replay_says_that_it_is_one(self, asker: Bus, workspace: AuthContext) -> None:
        made = await asker.call(workspace, CREATE)
        keyed = replace(workspace, idempotency=Idempotency("key", "print"))
        shown = [
            (await asker.request(keyed, RevokeApiToken, RevokeApiToken(id=made.id).to_json())).replayed
            for _ in range(2)
        ]
        assert shown == [False, True]


class TestRights:
    async def test_without_the_permission_no_command_is_done(self, asker: Bus, workspace: AuthContext) -> None:
        examples: dict[type[Command[Any]], Command[Any]] = {
            Exchange: Exchange.model_validate({"subject_token": "x"}),
            Refresh: Refresh.model_validate({"refresh_token": "x"}),
            Authenticate: Authenticate.model_validate({"token": "x"}),
            Logout: Logout(),
            CreateApiToken: CREATE,
            ListApiTokens: ListApiTokens(),
            RevokeApiToken: RevokeApiToken(id=ids.new("tok")),
        }
        assert set(examples) == {kind for kind in commands(auth) if kind.permission != OF_THE_JOB}
        for kind, command in examples.items():
            powerless = replace(workspace, permissions=ROLES["owner"] - {kind.permission})
            with pytest.raises(Forbidden, match=f"This needs the permission '{kind.permission}'"):
                await asker.request(powerless, kind, command.to_json())

    async def test_the_fields_of_a_command_are_checked_where_it_arrives(
        self, asker: Bus, workspace: AuthContext
    ) -> None:
        unchecked = CreateApiToken.model_construct(name="ci", scopes=[], expires_in_days=1000)
        with pytest.raises(InvalidInput, match="see 'errors'") as refused:
            await asker.request(workspace, CreateApiToken, unchecked.to_json())
        assert set(refused.value.fields or {}) == {"scopes", "expires_in_days"}
