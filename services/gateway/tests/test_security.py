"""Who calls and what they may do, and how soon the gateway learns that it is no longer so."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_common.contracts.auth import Authenticate
from causeloop_common.errors import Forbidden, Unauthorized, Unavailable
from causeloop_common.permissions import REALM_PERMISSIONS, ROLES
from causeloop_gateway import security as module
from causeloop_gateway.security import Caller, Security, require

if TYPE_CHECKING:
    from conftest import House, Person

Until = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def caller_of(security: Security, authorization: str | None) -> Caller:
    request = ids.new("req")
    return await security.caller(await security.identify(authorization, request, lambda: "192.0.2.1"), request)


async def caller(security: Security, token: str) -> Caller:
    return await caller_of(security, f"Bearer {token}")


async def refused(security: Security, token: str) -> bool:
    try:
        await caller(security, token)
    except Unauthorized:
        return True
    return False


@pytest.fixture
async def owner(house: "House") -> "Person":
    return await house.sign_up()


class TestCaller:
    async def test_a_session_has_its_role_s_rights_and_its_person_s(self, security: Security, owner: "Person") -> None:
        found = await caller(security, owner.token)
        assert (found.identity.tenant, found.identity.principal) == (owner.workspace, owner.id)
        assert found.permissions == ROLES["owner"] | REALM_PERMISSIONS

    async def test_in_the_realm_one_has_the_person_s_rights_alone(self, security: Security, owner: "Person") -> None:
        found = await caller(security, owner.realm_token)
        assert found.identity.tenant == owner.id
        assert found.permissions == REALM_PERMISSIONS

    async def test_a_personal_access_token_has_its_scopes_and_nothing_of_the_person_s(
        self, house: "House", security: Security, owner: "Person"
    ) -> None:
        made = await house.personal_token(owner, "secrets:read", "keys:use")
        assert (await caller(security, made["token"])).permissions == {"secrets:read", "keys:use"}

    async def test_a_personal_access_token_is_capped_by_its_owner_s_present_role(
        self, house: "House", security: Security, owner: "Person"
    ) -> None:
        made = await house.personal_token(owner, "secrets:read", "secrets:write", "members:admin")
        await house.set_role(owner, "viewer")
        assert (await caller(security, made["token"])).permissions == {"secrets:read"}

    async def test_of_a_role_that_is_not_known_nobody_may_anything(
        self, house: "House", security: Security, owner: "Person"
    ) -> None:
        made = await house.personal_token(owner, "secrets:read")
        await house.set_role(owner, "retired")
        assert (await caller(security, made["token"])).permissions == frozenset()

    @pytest.mark.parametrize(
        "authorization",
        [None, "", "Bearer", "Bearer ", "Basic dTpw", "Token abc", "Bearer \u00e9", f"Bearer {'x' * 4097}"],
    )
    async def test_without_a_bearer_token_nobody_is_known(self, security: Security, authorization: str | None) -> None:
        with pytest.raises(Unauthorized, match=r"^Send 'Authorization: Bearer <token>' with an access token or"):
            await caller_of(security, authorization)

    @pytest.mark.parametrize("token", ["nonsense", "x" * 4096, "Bearer x", "clp_pat_x"])
    async def test_an_unknown_token_is_refused(self, security: Security, token: str) -> None:
        with pytest.raises(Unauthorized, match="is not, or no longer, valid"):
            await caller(security, token)

    async def test_the_scheme_s_case_does_not_matter(self, security: Security, owner: "Person") -> None:
        for scheme in ("bearer", "BEARER"):
            assert (await caller_of(security, f"{scheme} {owner.token}")).identity.principal == owner.id


class TestForgetting:
    async def test_what_is_remembered_is_not_asked_again(
        self, security: Security, owner: "Person", until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        call = security._bus.call

        async def counting(ctx: Any, command: Any) -> Any:
            asked.append(command)
            return await call(ctx, command)

        monkeypatch.setattr(security._bus, "call", counting)

        async def answered_from_memory() -> bool:  # once the events of signing up have passed
            before = len(asked)
            await caller(security, owner.token)
            return len(asked) == before

        await until(answered_from_memory)

    async def test_a_revoked_token_is_refused_soon_after_its_event(
        self, house: "House", security: Security, owner: "Person", until: Until
    ) -> None:
        made = await house.personal_token(owner, "secrets:read")
        await caller(security, made["token"])
        other = await house.personal_token(owner, "secrets:read")
        await caller(security, other["token"])
        await house.body("DELETE", f"/api-tokens/{made['id']}", owner.token)
        started = asyncio.get_running_loop().time()
        await until(lambda: refused(security, made["token"]))
        assert asyncio.get_running_loop().time() - started < 1
        assert not await refused(security, other["token"])

    async def test_an_answer_on_its_way_while_the_token_is_revoked_is_not_kept(
        self, house: "House", security: Security, owner: "Person", until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """auth answered who it is, then it was revoked, then the answer arrived: nobody would evict it any more."""
        made, call = await house.personal_token(owner, "secrets:read"), security._bus.call

        async def slowly(ctx: Any, command: Any) -> Any:
            answer = await call(ctx, command)
            if isinstance(command, Authenticate):
                before = security._identities.begin()
                await house.body("DELETE", f"/api-tokens/{made['id']}", owner.token)

                async def evicted() -> bool:
                    return security._identities.begin().forgotten > before.forgotten

                await until(evicted)
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(security._bus, "call", slowly)
            await caller(security, made["token"])  # asked before it was revoked
        assert await refused(security, made["token"])

    async def test_a_session_is_refused_soon_after_its_end(
        self, house: "House", security: Security, owner: "Person", until: Until
    ) -> None:
        await caller(security, owner.token)
        await caller(security, owner.realm_token)
        await house.body("POST", "/auth/logout", owner.token)
        await until(lambda: refused(security, owner.token))
        await until(lambda: refused(security, owner.realm_token))

    async def test_a_token_that_expires_is_refused_though_it_is_remembered(
        self, security: Security, owner: "Person", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = await caller(security, owner.token)

        class Later(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return found.identity.expires_at + timedelta(microseconds=-1) if not late else found.identity.expires_at

        late = False
        monkeypatch.setattr(module, "datetime", Later)
        await caller(security, owner.token)
        late = True
        with pytest.raises(Unauthorized, match=r"^The token has expired\. Sign in again or use another token\.$"):
            await caller(security, owner.token)
        assert datetime.now(UTC) < found.identity.expires_at

    async def test_who_no_longer_belongs_is_refused_with_every_token(
        self, house: "House", security: Security, owner: "Person"
    ) -> None:
        made = await house.personal_token(owner, "secrets:read")
        async with house.superuser.transaction():
            await house.superuser.execute("SET LOCAL session_replication_role = replica")
            await house.superuser.execute(
                "DELETE FROM tenancy.members WHERE workspace_id = $1", ids.tenant_uuid(owner.workspace)
            )
        for token in (made["token"], owner.token):
            with pytest.raises(Unauthorized, match=r"^The token's owner does not belong to its workspace\."):
                await caller(security, token)
        assert (await caller(security, owner.realm_token)).permissions == REALM_PERMISSIONS

    async def test_without_the_bus_everybody_is_refused_and_forgotten(
        self, security: Security, owner: "Person"
    ) -> None:
        await caller(security, owner.token)
        await security._bus._disconnected()
        assert (len(security._identities), len(security._standings)) == (0, 0)
        await security._bus.close()
        with pytest.raises(Unavailable, match="The message bus cannot be reached"):
            await caller(security, owner.token)

    async def test_a_refusal_is_not_remembered(self, security: Security) -> None:
        assert await refused(security, "nonsense")
        assert len(security._identities) == 0


class TestRequire:
    async def test_the_right_credential_with_the_permission_may(self, security: Security, owner: "Person") -> None:
        require(await caller(security, owner.token), "secrets:read", frozenset({"session"}))

    async def test_another_kind_of_credential_may_not(
        self, house: "House", security: Security, owner: "Person"
    ) -> None:
        made = await house.personal_token(owner, "secrets:read")
        with pytest.raises(Forbidden, match=r"^This cannot be done with a token\. Use a session\.$"):
            require(await caller(security, made["token"]), "secrets:read", frozenset({"session"}))

    async def test_without_the_permission_the_refusal_has_what_to_do(
        self, house: "House", security: Security, owner: "Person"
    ) -> None:
        either = frozenset({"session", "token"})
        with pytest.raises(Forbidden, match=r"'secrets:read'\. Your token is not in a workspace: refresh it with"):
            require(await caller(security, owner.realm_token), "secrets:read", either)
        made = await house.personal_token(owner, "keys:use")
        with pytest.raises(Forbidden, match=r"'secrets:read'\. Ask an administrator of the workspace\.$"):
            require(await caller(security, made["token"]), "secrets:read", either)
