"""Tenancy on the bus: every command reaches its use case, and nobody's reaches it who may not."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from causeloop_common.context import Idempotency
from causeloop_common.contracts import tenancy
from causeloop_common.contracts.base import Command, commands
from causeloop_common.contracts.tenancy import CreateWorkspace, GetWorkspace, ListMyWorkspaces, Resolve
from causeloop_common.errors import Conflict, Forbidden, InvalidInput, NotFound
from causeloop_common.messaging import Bus
from causeloop_common.permissions import OF_THE_JOB, REALM_PERMISSIONS, ROLES, SELF, Internal, Permission

if TYPE_CHECKING:
    from conftest import House

ACME = CreateWorkspace(name="Acme", slug="acme")
EVERYTHING = REALM_PERMISSIONS | ROLES["owner"] | set(Internal)


class TestWorkspaces:
    async def test_create_get_list_and_resolve(self, house: "House", asker: Bus) -> None:
        ctx = house.creator()
        made = await asker.call(ctx, ACME)
        assert made.id == ctx.tenant

        inside = replace(ctx, permissions=frozenset({Permission.WORKSPACE_READ}))
        assert await asker.call(inside, GetWorkspace()) == made
        mine = await asker.call(replace(ctx, permissions=frozenset({SELF})), ListMyWorkspaces())
        assert [one.workspace_id for one in mine.data] == [made.id]
        resolving = replace(ctx, permissions=frozenset({Internal.RESOLVE}))
        assert (await asker.call(resolving, Resolve(principal=ctx.principal))).role == "owner"

    async def test_a_replay_says_that_it_is_one(self, house: "House", asker: Bus) -> None:
        ctx = house.creator(key="k")
        first, again = [await asker.request(ctx, CreateWorkspace, ACME.to_json()) for _ in range(2)]
        assert (first.replayed, again.replayed) == (False, True)
        assert first.body == again.body

    async def test_refusals_arrive_with_their_sentences(self, house: "House", asker: Bus) -> None:
        ctx = house.creator()
        with pytest.raises(NotFound, match="There is no such workspace"):
            await asker.call(replace(ctx, permissions=ROLES["viewer"]), GetWorkspace())
        await asker.call(ctx, ACME)
        with pytest.raises(Conflict, match="Use a new Idempotency-Key"):
            await asker.call(house.creator(ctx.tenant), ACME)

    async def test_the_tenant_is_the_token_s_and_a_principal_is_the_command_s_alone(
        self, house: "House", asker: Bus
    ) -> None:
        ctx = house.creator()
        await asker.call(ctx, ACME)
        elsewhere = replace(house.creator(), permissions=frozenset({Internal.RESOLVE}))
        assert (await asker.call(elsewhere, Resolve(principal=ctx.principal))).role is None


class TestRights:
    async def test_without_the_permission_no_command_is_done(self, house: "House", asker: Bus) -> None:
        ctx = house.creator()
        examples: dict[type[Command[Any]], Command[Any]] = {
            CreateWorkspace: ACME,
            GetWorkspace: GetWorkspace(),
            ListMyWorkspaces: ListMyWorkspaces(),
            Resolve: Resolve(principal=ctx.principal),
        }
        assert set(examples) == {kind for kind in commands(tenancy) if kind.permission != OF_THE_JOB}
        for kind, command in examples.items():
            powerless = replace(ctx, permissions=frozenset(EVERYTHING - {kind.permission}))
            with pytest.raises(Forbidden, match=f"This needs the permission '{kind.permission}'"):
                await asker.request(powerless, kind, command.to_json())
        assert await house.rows("workspaces", ctx.tenant) == []

    async def test_the_fields_of_a_command_are_checked_where_it_arrives(self, house: "House", asker: Bus) -> None:
        unchecked = CreateWorkspace.model_construct(name="\n", slug="Not A Slug", timezone="Mars/Olympus")
        with pytest.raises(InvalidInput, match="see 'errors'") as refused:
            await asker.request(house.creator(), CreateWorkspace, unchecked.to_json())
        assert set(refused.value.fields or {}) == {"name", "slug", "timezone"}

    async def test_a_key_is_the_caller_s_own(self, house: "House", asker: Bus) -> None:
        first = house.creator(key="k")
        await asker.request(first, CreateWorkspace, ACME.to_json())
        other = replace(house.creator(), idempotency=Idempotency("k", "another print"))
        assert not (await asker.request(other, CreateWorkspace, ACME.to_json())).replayed


class TestTimezones:
    @pytest.mark.parametrize(
        "name", ["localtime", "Factory", "posixrules", "right/UTC", "posix/UTC", "utc", "Local", ""]
    )
    def test_that_are_not_of_the_database_are_refused(self, name: str) -> None:
        """E27: the files of a host are not the names of the tz database."""
        with pytest.raises(ValidationError, match="is not a time zone of the IANA database"):
            CreateWorkspace(name="Acme", slug="acme", timezone=name)

    @pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
    def test_of_the_database_are_taken_and_known_to_python(self, name: str) -> None:
        assert CreateWorkspace(name="Acme", slug="acme", timezone=name).timezone == ZoneInfo(name).key
