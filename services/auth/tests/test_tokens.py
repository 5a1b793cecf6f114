"""Use cases of personal access tokens."""

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from causeloop_auth.domain import handles
from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.auth import CreateApiToken, CreatedApiToken, ListApiTokens, RevokeApiToken
from causeloop_common.contracts.base import Nothing
from causeloop_common.errors import (
    Forbidden,
    IdempotencyMismatch,
    NotFound,
    SecretAlreadyShown,
    Unauthorized,
)
from causeloop_common.idempotency import Replayed
from causeloop_common.permissions import REALM_PERMISSIONS
from tests.support.pages import pages

if TYPE_CHECKING:
    from conftest import House

GONE = r"^There is no such token in this workspace\.$"
INVALID = r"^The token is not, or no longer, valid\."


async def make(house: "House", ctx: AuthContext, *scopes: str, **more: Any) -> CreatedApiToken:
    command = CreateApiToken.model_validate({"name": "ci", "scopes": list(scopes) or ["secrets:read"], **more})
    return await house.tokens.create_api_token(ctx, command)


class TestCreateApiToken:
    async def test_the_token_stands_for_its_maker_in_the_workspace_capped_by_its_scopes(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx, "secrets:read", "keys:use", "secrets:read")

        identity = await house.authenticate(made.token)
        assert (identity.principal, identity.tenant) == (ctx.principal, ctx.tenant)
        assert (identity.kind, identity.credential) == ("token", made.id)
        assert identity.scopes == made.scopes == ["keys:use", "secrets:read"]
        assert identity.expires_at == made.expires_at == house.now + timedelta(days=90)

    async def test_is_announced_with_its_scopes_and_without_its_secret(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        (answer,) = await house.announced(ctx.tenant)
        assert answer[:4] == ("auth.token_created", made.id, ctx.principal, ctx.credential)
        assert made.token.get_secret_value() not in answer.data

    async def test_only_the_digest_is_stored_and_printing_shows_stars(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"), key="k")
        made = await make(house, ctx)
        secret = made.token.get_secret_value()
        (row,) = await house.rows("tokens", ctx.tenant)
        assert row["digest"] == handles.digest(secret)
        (kept,) = await house.rows("idempotency", ctx.tenant)
        assert secret not in f"{row} {kept} {made!r} {made} {made.model_dump_json()}"

    async def test_a_token_cannot_make_tokens(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx, "tokens:own")
        for credential in (made.id, None, "", "tok_ses_1"):
            with pytest.raises(Forbidden, match=r"^A token cannot make tokens\. Sign in with a session\.$"):
                await make(house, replace(ctx, credential=credential))
        assert len(await house.rows("tokens", ctx.tenant)) == 1

    async def test_scopes_beyond_one_s_own_are_refused_by_name(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"), role="member")
        with pytest.raises(Forbidden, match=r"^You cannot grant what you do not hold: audit:read, keys:write\.$"):
            await make(house, ctx, "secrets:read", "keys:write", "audit:read")
        assert await house.rows("tokens", ctx.tenant) == []
        assert await house.announced(ctx.tenant) == []

    async def test_a_person_in_their_realm_holds_nothing_to_grant(self, house: "House") -> None:
        realm = house.person(house.subject())
        ctx = replace(house.caller(realm, realm), permissions=REALM_PERMISSIONS)
        with pytest.raises(Forbidden, match="You cannot grant what you do not hold: secrets:read"):
            await make(house, ctx)

    async def test_repeated_with_its_key_makes_one_and_shows_its_secret_once(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"), key="k")
        made = await make(house, ctx)
        with pytest.raises(SecretAlreadyShown, match=rf"its secret was shown then\. It made {made.id}\.$") as again:
            await make(house, ctx)
        assert again.value.fields == {"id": [made.id]}
        assert len(await house.rows("tokens", ctx.tenant)) == len(await house.announced(ctx.tenant)) == 1

    async def test_another_request_under_the_key_is_refused(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"), key="k")
        await make(house, ctx)
        with pytest.raises(IdempotencyMismatch, match="was used with another request"):
            await make(house, replace(ctx, idempotency=Idempotency("k", "another")), "keys:use")

    async def test_expires_after_the_days_asked_for(self, house: "House") -> None:
        made = await make(house, house.caller(ids.new("ws")), expires_in_days=1)
        house.pass_(days=1, microseconds=-1)
        await house.authenticate(made.token)
        house.pass_(microseconds=1)
        with pytest.raises(Unauthorized, match=INVALID):
            await house.authenticate(made.token)

    async def test_its_handle_with_another_tenant_finds_nothing(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        other = house.caller(ids.new("ws"))
        await make(house, other)
        handle = handles.parse(made.token.get_secret_value(), "pat")
        assert handle is not None
        for tenant in (other.tenant, ids.new("ws"), ctx.principal):
            with pytest.raises(Unauthorized, match=INVALID):
                await house.authenticate(handles.make("pat", tenant, made.id, handle.secret))

    async def test_its_handle_with_another_secret_is_not_it(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        with pytest.raises(Unauthorized, match=INVALID):
            await house.authenticate(handles.make("pat", ctx.tenant, made.id, bytes(32)))


class TestListApiTokens:
    async def test_one_s_own_newest_first_in_pages(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = [(await make(house, ctx, name=str(n))).id for n in range(5)]
        await make(house, house.caller(ctx.tenant))  # somebody else's

        found = await pages(house.tokens.list_api_tokens, ctx, ListApiTokens(limit=2))
        assert [len(page) for page in found] == [2, 2, 1]
        seen = [token.id for page in found for token in page]
        assert seen == sorted(made, reverse=True)  # of one millisecond in any order

    async def test_shows_revoked_ones_as_such_and_no_secrets(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        await house.tokens.revoke_api_token(ctx, RevokeApiToken(id=made.id))
        (shown,) = (await house.tokens.list_api_tokens(ctx, ListApiTokens())).data
        assert shown.revoked_at == house.now
        assert not any(isinstance(value, SecretStr) for _, value in shown)
        assert "token" not in type(shown).model_fields

    async def test_shows_nothing_of_another_workspace(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        await make(house, ctx)
        elsewhere = replace(ctx, tenant=ids.new("ws"))
        page = await house.tokens.list_api_tokens(elsewhere, ListApiTokens())
        assert (page.data, page.next_position) == ([], None)


class TestRevokeApiToken:
    async def test_ends_it_at_once_and_says_so(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        await house.tokens.revoke_api_token(ctx, RevokeApiToken(id=made.id))
        with pytest.raises(Unauthorized, match=INVALID):
            await house.authenticate(made.token)
        assert (await house.announced(ctx.tenant))[-1][:3] == ("auth.token_revoked", made.id, ctx.principal)

    async def test_twice_is_announced_once_and_keeps_the_first_time(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        at = house.now
        for _ in range(2):
            await house.tokens.revoke_api_token(ctx, RevokeApiToken(id=made.id))
            house.pass_(seconds=1)
        assert (await house.types(ctx.tenant)).count("auth.token_revoked") == 1
        (row,) = await house.rows("tokens", ctx.tenant)
        assert row["revoked_at"] == at

    async def test_repeated_with_its_key_is_replayed(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        keyed = replace(ctx, idempotency=Idempotency("k", "print"))
        await house.tokens.revoke_api_token(keyed, RevokeApiToken(id=made.id))
        with pytest.raises(Replayed) as done:
            await house.tokens.revoke_api_token(keyed, RevokeApiToken(id=made.id))
        assert done.value.reply == Nothing().to_json()

    async def test_somebody_else_s_needs_the_right_to_and_is_not_found_without(self, house: "House") -> None:
        owner = house.caller(ids.new("ws"))
        made = await make(house, owner)
        member = house.caller(owner.tenant, role="member")
        with pytest.raises(NotFound, match=GONE):
            await house.tokens.revoke_api_token(member, RevokeApiToken(id=made.id))
        await house.authenticate(made.token)

        await house.tokens.revoke_api_token(house.caller(owner.tenant, role="admin"), RevokeApiToken(id=made.id))
        with pytest.raises(Unauthorized, match=INVALID):
            await house.authenticate(made.token)

    async def test_another_workspace_s_and_one_that_never_was_are_not_found_alike(self, house: "House") -> None:
        ctx = house.caller(ids.new("ws"))
        made = await make(house, ctx)
        elsewhere = house.caller(ids.new("ws"), ctx.principal)
        for token in (made.id, ids.new("tok")):
            with pytest.raises(NotFound, match=GONE):
                await house.tokens.revoke_api_token(elsewhere, RevokeApiToken(id=token))
        await house.authenticate(made.token)
