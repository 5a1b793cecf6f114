"""The permission catalogue and the built-in roles."""

import re

import pytest

from causeloop_common.permissions import REALM_PERMISSIONS, ROLES, SELF, Internal, Permission


def _names(text: str) -> set[str]:
    """Write `keys:read|write|use` for three permissions."""
    groups = (group.partition(":") for group in text.split())
    return {f"{noun}:{verb}" for noun, _, verbs in groups for verb in verbs.split("|")}


CATALOGUE = _names(
    "workspace:create|read|write|admin members:read|write|admin roles:read|write tokens:own|read|write "
    "service_accounts:read|write connectors:read|write|use webhooks:read|write secrets:read|write|reveal "
    "keys:read|write|use audit:read|stream|write|ask governance:read|write|approve settings:read|write"
)


class TestCatalogue:
    def test_holds_exactly_what_the_api_documents(self) -> None:
        assert {str(permission) for permission in Permission} == CATALOGUE

    def test_internal_permissions_are_no_part_of_it(self) -> None:
        assert CATALOGUE.isdisjoint({*Internal, SELF})
        assert all(re.fullmatch(r"internal:[a-z_]+", permission) for permission in Internal)


class TestRoles:
    def test_there_are_five(self) -> None:
        assert list(ROLES) == ["viewer", "member", "auditor", "admin", "owner"]

    @pytest.mark.parametrize(
        ("smaller", "larger"),
        [("viewer", "member"), ("member", "auditor"), ("member", "admin"), ("auditor", "admin"), ("admin", "owner")],
    )
    def test_each_holds_more_than_the_one_before(self, smaller: str, larger: str) -> None:
        assert ROLES[smaller] < ROLES[larger]

    def test_a_viewer_reads_everything_but_audit_and_governance(self) -> None:
        assert ROLES["viewer"] == {name for name in CATALOGUE if name.endswith(":read")} - _names(
            "audit:read governance:read"
        )

    def test_a_member_adds_everyday_work(self) -> None:
        assert ROLES["member"] - ROLES["viewer"] == _names(
            "tokens:own connectors:use keys:use secrets:write|reveal audit:write"
        )

    def test_an_auditor_adds_reading_the_record(self) -> None:
        assert ROLES["auditor"] - ROLES["member"] == _names("audit:read|stream|ask governance:read")

    def test_only_an_owner_can_end_the_workspace_or_approve(self) -> None:
        assert ROLES["owner"] - ROLES["admin"] == _names("workspace:admin governance:approve")

    def test_creating_a_workspace_is_no_right_in_one(self) -> None:
        assert ROLES["owner"] == CATALOGUE - {"workspace:create"}

    @pytest.mark.parametrize("role", ROLES)
    def test_none_holds_what_only_services_or_persons_hold(self, role: str) -> None:
        assert ROLES[role].isdisjoint({*Internal, SELF})
        assert ROLES[role] <= CATALOGUE


class TestRealm:
    def test_a_person_holds_in_their_realm_what_belongs_to_them_alone(self) -> None:
        assert {SELF, "workspace:create"} == REALM_PERMISSIONS
