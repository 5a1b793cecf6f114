"""The rules of tenancy: what a role allows."""

import pytest

from causeloop_common.permissions import ROLES, SELF, Internal, Permission
from causeloop_tenancy.domain import standing


class TestPermissionsOf:
    @pytest.mark.parametrize("role", ROLES)
    def test_a_built_in_role_allows_what_the_catalogue_says(self, role: str) -> None:
        assert standing.permissions_of(role) == ROLES[role]

    @pytest.mark.parametrize("role", [None, "", "Owner", "owner ", "root", "self"])
    def test_a_stranger_or_an_unknown_role_may_do_nothing(self, role: str | None) -> None:
        assert standing.permissions_of(role) == frozenset()

    def test_the_first_role_may_do_everything_in_a_workspace_but_make_another(self) -> None:
        assert standing.permissions_of(standing.FIRST_ROLE) == set(Permission) - {Permission.WORKSPACE_CREATE}

    @pytest.mark.parametrize("role", ROLES)
    def test_no_role_holds_what_belongs_to_services_or_to_persons(self, role: str) -> None:
        assert standing.permissions_of(role).isdisjoint({SELF, *Internal})
