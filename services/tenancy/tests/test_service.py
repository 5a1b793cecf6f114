"""Use cases of tenancy: workspaces, who belongs to them, and what somebody may do."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.tenancy import (
    CreateWorkspace,
    GetWorkspace,
    ListMyWorkspaces,
    MyWorkspacePage,
    Resolve,
    WorkspaceView,
)
from causeloop_common.errors import Conflict, IdempotencyInProgress, IdempotencyMismatch, NotFound
from causeloop_common.idempotency import Replayed
from causeloop_common.permissions import REALM_PERMISSIONS, ROLES
from causeloop_dev.testing import person
from tests.support.pages import pages

if TYPE_CHECKING:
    from conftest import House

ACME = CreateWorkspace(name="Acme", slug="acme", timezone="Europe/Berlin")
EXISTS = "This workspace exists already, made by another request"
NOWHERE = r"^There is no such workspace\.$"
NOBODY = AuthContext(tenant=ids.INSTALLATION, principal="svc_gateway", permissions=frozenset(), request_id="canary")


class TestCreateWorkspace:
    async def test_makes_it_with_its_creator_as_owner(self, house: "House") -> None:
        ctx = house.creator()
        made = await house.service.create_workspace(ctx, ACME)

        assert (made.id, made.created_by) == (ctx.tenant, ctx.principal)
        assert (made.name, made.slug, made.timezone) == ("Acme", "acme", "Europe/Berlin")
        standing = await house.service.resolve(ctx, Resolve(principal=ctx.principal))
        assert standing.role == "owner"

    async def test_is_announced_in_the_workspace_and_its_owner_with_it(self, house: "House") -> None:
        ctx = house.creator()
        await house.service.create_workspace(ctx, ACME)
        created, added = await house.announced(ctx.tenant)
        assert created[:3] == ("tenancy.workspace_created", ctx.tenant, ctx.principal)
        assert added[:3] == ("tenancy.member_added", ctx.principal, ctx.principal)
        assert "Acme" not in created.data + added.data

    async def test_the_same_id_retried_by_the_same_person_is_one_workspace_and_no_second_event(
        self, house: "House"
    ) -> None:
        ctx = house.creator()
        first = await house.service.create_workspace(ctx, ACME)
        later = replace(ctx, credential=ids.new("ses"), request_id=ids.new("req"))  # days later, the key forgotten
        again = await house.service.create_workspace(later, ACME)
        with pytest.raises(Conflict, match=EXISTS):
            await house.service.create_workspace(later, CreateWorkspace(name="Other", slug="other"))

        assert again == first
        assert len(await house.rows("members", ctx.tenant)) == 1
        assert len(await house.announced(ctx.tenant)) == 2

    async def test_the_same_id_by_another_person_is_a_conflict_and_nothing_is_announced(self, house: "House") -> None:
        ctx = house.creator()
        await house.service.create_workspace(ctx, ACME)
        for key in ("", "k"):
            other = house.creator(ctx.tenant, key=key)
            with pytest.raises(Conflict, match=EXISTS):
                await house.service.create_workspace(other, ACME)
            assert (await house.service.resolve(other, Resolve(principal=other.principal))).role is None

        assert len(await house.announced(ctx.tenant)) == 2
        assert len(await house.rows("members", ctx.tenant)) == 1
        assert await house.rows("idempotency", ctx.tenant) == []

    async def test_repeated_with_its_key_is_replayed(self, house: "House") -> None:
        ctx = house.creator(key="k")
        first = await house.service.create_workspace(ctx, ACME)
        with pytest.raises(Replayed) as done:
            await house.service.create_workspace(ctx, ACME)
        assert WorkspaceView.model_validate_json(done.value.reply) == first

    async def test_another_request_under_the_key_is_refused(self, house: "House") -> None:
        ctx = house.creator(key="k")
        await house.service.create_workspace(ctx, ACME)
        with pytest.raises(IdempotencyMismatch, match="was used with another request"):
            await house.service.create_workspace(replace(ctx, idempotency=Idempotency("k", "another")), ACME)

    @pytest.mark.parametrize("key", ["", "k"])
    async def test_of_many_at_once_one_is_made(self, house: "House", key: str) -> None:
        ctx = house.creator(key=key)
        shown = await asyncio.gather(
            *(house.service.create_workspace(ctx, ACME) for _ in range(12)), return_exceptions=True
        )
        assert all(isinstance(one, WorkspaceView | Replayed | IdempotencyInProgress) for one in shown)
        assert len({one.id for one in shown if isinstance(one, WorkspaceView)}) == 1
        assert len(await house.announced(ctx.tenant)) == 2

    async def test_a_slug_is_a_label_that_tells_nothing_of_others(self, house: "House") -> None:
        made = [await house.service.create_workspace(house.creator(), ACME) for _ in range(2)]
        assert [one.slug for one in made] == ["acme", "acme"]


class TestGetWorkspace:
    async def test_shows_the_current_one(self, house: "House", as_user: Callable[..., AuthContext]) -> None:
        ctx = house.creator()
        made = await house.service.create_workspace(ctx, ACME)
        assert await house.service.get_workspace(as_user(ctx.tenant, "viewer"), GetWorkspace()) == made

    async def test_that_is_not_there_is_not_found(self, house: "House", workspace: AuthContext) -> None:
        with pytest.raises(NotFound, match=NOWHERE):
            await house.service.get_workspace(workspace, GetWorkspace())

    async def test_of_a_realm_is_not_found(self, house: "House") -> None:
        ctx = house.creator()
        await house.service.create_workspace(ctx, ACME)
        with pytest.raises(NotFound, match=NOWHERE):
            await house.service.get_workspace(replace(ctx, tenant=ctx.principal), GetWorkspace())


async def page(house: "House", principal: str, limit: int = 25, position: str | None = None) -> MyWorkspacePage:
    ctx = AuthContext(tenant=principal, principal=principal, permissions=REALM_PERMISSIONS)
    return await house.service.list_my_workspaces(ctx, ListMyWorkspaces(limit=limit, position=position))


class TestListMyWorkspaces:
    async def test_shows_where_the_person_belongs_and_as_what(self, house: "House") -> None:
        ctx = house.creator()
        made = await house.service.create_workspace(ctx, ACME)
        elsewhere = house.creator()
        await house.service.create_workspace(elsewhere, ACME)
        await house.add_member(elsewhere.tenant, ctx.principal, "viewer")

        found = {one.workspace_id: one.role for one in (await page(house, ctx.principal)).data}
        assert found == {made.id: "owner", elsewhere.tenant: "viewer"}

    async def test_shows_nobody_else_s(self, house: "House") -> None:
        ctx = house.creator()
        await house.service.create_workspace(ctx, ACME)
        await house.add_member(ctx.tenant, other := person(), "admin")

        assert [one.role for one in (await page(house, ctx.principal)).data] == ["owner"]
        assert [one.role for one in (await page(house, other)).data] == ["admin"]
        assert (await page(house, person())).data == []

    async def test_pages_cover_everything_once_in_order(self, house: "House") -> None:
        principal = person()
        made = [(await house.service.create_workspace(house.creator(None, principal), ACME)).id for _ in range(5)]
        for limit, sizes in ((1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (5, [5]), (100, [5])):
            ctx = AuthContext(tenant=principal, principal=principal, permissions=REALM_PERMISSIONS)
            found = await pages(house.service.list_my_workspaces, ctx, ListMyWorkspaces(limit=limit))
            assert [len(one) for one in found] == sizes
            assert [workspace.workspace_id for one in found for workspace in one] == sorted(made)

    async def test_goes_on_where_it_was_while_the_list_grows(self, house: "House") -> None:
        principal = person()
        made = [(await house.service.create_workspace(house.creator(None, principal), ACME)).id for _ in range(3)]
        made.sort()
        first = await page(house, principal, 2)
        newest = (await house.service.create_workspace(house.creator(None, principal), ACME)).id
        rest = await page(house, principal, 2, first.next_position)
        assert [one.workspace_id for one in rest.data] == sorted([made[2], newest])

    async def test_from_within_a_workspace_is_the_same_list(self, house: "House") -> None:
        ctx = house.creator()
        await house.service.create_workspace(ctx, ACME)
        inside = await house.service.list_my_workspaces(ctx, ListMyWorkspaces())
        assert inside == await page(house, ctx.principal)


class TestResolve:
    @pytest.mark.parametrize("role", ROLES)
    async def test_says_what_a_member_may_do(self, house: "House", role: str) -> None:
        ctx = house.creator()
        await house.service.create_workspace(ctx, ACME)
        await house.add_member(ctx.tenant, member := person(), role)
        standing = await house.service.resolve(replace(NOBODY, tenant=ctx.tenant), Resolve(principal=member))
        assert standing.role == role
        assert standing.permissions == sorted(ROLES[role])

    async def test_a_stranger_may_do_nothing(self, house: "House") -> None:
        ctx = house.creator()
        await house.service.create_workspace(ctx, ACME)
        standing = await house.service.resolve(ctx, Resolve(principal=person()))
        assert (standing.role, standing.permissions) == (None, [])

    async def test_a_workspace_that_is_not_there_cannot_be_distinguished_from_a_foreign_one(
        self, house: "House"
    ) -> None:
        ctx, other = house.creator(), house.creator()
        await house.service.create_workspace(other, ACME)
        for tenant in (other.tenant, ids.new("ws"), ctx.principal):
            standing = await house.service.resolve(replace(ctx, tenant=tenant), Resolve(principal=ctx.principal))
            assert (standing.role, standing.permissions) == (None, [])
