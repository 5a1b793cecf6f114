"""Who calls and what they may do, and how soon the gateway learns that it is no longer so."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_common.contracts.auth import Authenticate
from causeloop_common.contracts.bearer import Claim
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.errors import Forbidden, Unauthorized, Unavailable
from causeloop_common.memory import Memory, of_person
from causeloop_common.messaging import Bus
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


class TestFirstUse:
    """Who it is and what they may do are asked at once."""

    @pytest.fixture
    def calls(self, security: Security, monkeypatch: pytest.MonkeyPatch) -> "Calls":
        made = Calls(security._bus.call)
        monkeypatch.setattr(security._bus, "call", made)
        return made

    @pytest.mark.parametrize("kind", ["session", "token"])
    async def test_asks_auth_and_tenancy_at_once(
        self, house: "House", security: Security, owner: "Person", calls: "Calls", kind: str
    ) -> None:
        token = owner.token if kind == "session" else (await house.personal_token(owner, "secrets:read"))["token"]
        calls.held[Authenticate] = calls.begun(Resolve)  # auth answers only when tenancy has been asked
        found = await caller(security, token)
        assert found.identity.principal == owner.id
        assert "secrets:read" in found.permissions
        assert calls.asked == ["authenticate", "resolve"]

    async def test_a_person_who_is_known_already_is_not_asked_about(
        self, house: "House", security: Security, owner: "Person", calls: "Calls", until: Until
    ) -> None:
        made = [await house.personal_token(owner, "secrets:read") for _ in range(2)]
        await caller(security, made[0]["token"])

        async def standing_is_kept() -> bool:  # once the events of signing up have passed
            await caller(security, owner.token)
            return len(security._standings) == 1

        await until(standing_is_kept)
        calls.asked.clear()
        await caller(security, made[1]["token"])
        assert calls.asked == ["authenticate"]

    async def test_in_the_realm_nobody_is_asked_about(
        self, security: Security, owner: "Person", calls: "Calls"
    ) -> None:
        await caller(security, owner.realm_token)
        assert calls.asked == ["authenticate"]

    async def test_of_a_forged_token_nothing_is_used_and_nothing_kept(
        self, security: Security, owner: "Person", calls: "Calls"
    ) -> None:
        head, claims, _ = owner.token.split(".")
        calls.held[Resolve] = asyncio.Event()  # tenancy never answers, and nobody waits for it
        assert await refused(security, f"{head}.{claims}.{'A' * 43}")
        assert (len(security._identities), len(security._standings)) == (0, 0)

    async def test_a_claim_that_auth_does_not_confirm_counts_for_nothing(
        self, security: Security, owner: "Person", house: "House", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = await house.sign_up()
        monkeypatch.setattr(module, "claimed", lambda _: Claim(other.workspace, other.id))
        found = await caller(security, owner.token)
        assert (found.identity.tenant, found.identity.principal) == (owner.workspace, owner.id)
        assert not any(other.id in key for key in security._standings._kept)

    async def test_without_tenancy_it_is_refused_as_before(
        self, security: Security, owner: "Person", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call = security._bus.call

        async def without_tenancy(ctx: Any, command: Any) -> Any:
            if isinstance(command, Resolve):
                raise Unavailable("The tenancy service is not running.")
            return await call(ctx, command)

        monkeypatch.setattr(security._bus, "call", without_tenancy)
        with pytest.raises(Unavailable, match="tenancy service is not running"):
            await caller(security, owner.token)

    async def test_what_ends_while_both_are_asked_is_not_kept(
        self, security: Security, owner: "Person", calls: "Calls"
    ) -> None:
        calls.held[Authenticate] = calls.begun(Resolve)
        asking = asyncio.create_task(caller(security, owner.token))
        await calls.begun(Resolve).wait()
        security._standings.forget(of_person(owner.workspace, owner.id))
        security._identities.forget(owner.workspace)
        await asking
        assert len(security._identities) == 0
        assert calls.asked[:2] == ["authenticate", "resolve"]
        assert calls.asked[2:] == ["resolve"]  # the answer of before counts for nothing: it is asked again


class Calls:
    """What was asked over the bus. An answer can be held until an event."""

    def __init__(self, call: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self._call = call
        self._begun: dict[type, asyncio.Event] = {}
        self.asked: list[str] = []
        self.held: dict[type, asyncio.Event] = {}

    def begun(self, kind: type) -> asyncio.Event:
        """Set when this has been asked."""
        return self._begun.setdefault(kind, asyncio.Event())

    async def __call__(self, ctx: Any, command: Any) -> Any:
        kind = type(command)
        self.asked.append(command.operation)
        self.begun(kind).set()
        answer = await self._call(ctx, command)
        if kind in self.held:
            await self.held[kind].wait()
        return answer


class TestUse:
    async def test_renews_both_answers_before_their_time_is_over(
        self, bus: Bus, security: Security, owner: "Person", until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token that is in use never waits; and none is good for longer than it was."""

        async def kept() -> bool:  # once the events of signing up have passed
            await caller(security, owner.token)
            return (len(security._identities), len(security._standings)) == (1, 1)

        await until(kept)
        memories: list[Memory[Any, Any]] = [security._identities, security._standings]
        ends = [next(iter(memory._kept.values()))[1] for memory in memories]
        for memory in memories:
            monkeypatch.setattr(memory, "_late", 30.0)
        await caller(security, owner.token)

        async def renewed() -> bool:
            return not any(memory._meanwhile for memory in memories)

        await until(renewed)
        assert all(next(iter(m._kept.values()))[1] > end for m, end in zip(memories, ends, strict=True))

    async def test_of_a_token_that_was_revoked_and_nobody_was_informed_ends_it(
        self, house: "House", security: Security, owner: "Person", until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = await house.personal_token(owner, "secrets:read")
        await caller(security, made["token"])
        async with house.superuser.transaction():
            await house.superuser.execute("SET LOCAL session_replication_role = replica")
            token_id = ids.decode(made["id"], "tok")
            await house.superuser.execute("UPDATE auth.tokens SET revoked_at = now() WHERE id = $1", token_id)
        monkeypatch.setattr(security._identities, "_late", 30.0)
        await until(lambda: refused(security, made["token"]))


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
