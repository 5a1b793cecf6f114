"""Use cases of sessions: signing in, moving between workspaces, signing out. Tenancy and vault are the real ones."""

import asyncio
import json
import zlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from causeloop_auth.domain import access, handles
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.auth import Grant, Logout
from causeloop_common.errors import InvalidGrant, NotFound, Unauthorized
from causeloop_common.permissions import REALM_PERMISSIONS, ROLES

if TYPE_CHECKING:
    from conftest import House

REFUSED = r"^The refresh token is not, or no longer, good\. Sign in again\.$"
NOWHERE = r"^There is no such workspace\.$"
REALM_SCOPE = " ".join(sorted(REALM_PERMISSIONS))
OWNER_SCOPE = " ".join(sorted(ROLES["owner"]))


def session_of(grant: Grant) -> str:
    handle = handles.parse(grant.refresh_token.get_secret_value(), "rt")
    assert handle is not None
    return f"ses_{handle.suffix}"


class TestExchange:
    async def test_without_a_workspace_the_person_is_in_their_realm(self, house: "House") -> None:
        subject = house.subject()
        grant = await house.sign_in(subject)

        assert (grant.token_type, grant.expires_in, grant.workspace_id) == ("Bearer", 900, None)
        assert grant.scope == REALM_SCOPE
        identity = await house.authenticate(grant.access_token)
        assert identity.principal == identity.tenant == house.person(subject)

    async def test_a_person_is_the_same_at_every_sign_in_and_each_sign_in_a_session_of_its_own(
        self, house: "House"
    ) -> None:
        subject = house.subject()
        first, second = [await house.sign_in(subject) for _ in range(2)]
        one, other = [await house.authenticate(grant.access_token) for grant in (first, second)]
        assert one.principal == other.principal
        assert one.credential != other.credential

    async def test_with_a_workspace_one_belongs_to_the_session_is_there_at_once(self, house: "House") -> None:
        subject = house.subject()
        workspace = await house.create_workspace(house.person(subject))
        grant = await house.sign_in(subject, workspace)

        assert (grant.workspace_id, grant.scope) == (workspace, OWNER_SCOPE)
        identity = await house.authenticate(grant.access_token)
        assert (identity.principal, identity.tenant) == (house.person(subject), workspace)

    async def test_a_workspace_of_others_and_one_that_is_not_there_are_refused_alike_and_no_session_begins(
        self, house: "House"
    ) -> None:
        subject, stranger = house.subject(), house.subject()
        for workspace in (await house.create_workspace(house.person(stranger)), ids.new("ws")):
            with pytest.raises(NotFound, match=NOWHERE):
                await house.sign_in(subject, workspace)
        assert await house.announced(house.person(subject)) == []

    async def test_a_subject_token_that_is_not_good_is_refused_before_anything_else(self, house: "House") -> None:
        subject, stranger = house.subject(), house.subject()
        workspace = await house.create_workspace(house.person(stranger))
        for where in (None, workspace, ids.new("ws")):
            with pytest.raises(InvalidGrant, match="has expired"):
                await house.sign_in(subject, where, subject_token=house.issuer.sign(subject, exp=1))
        assert await house.announced(house.person(subject)) == []

    async def test_is_announced_in_the_realm_by_the_person_with_the_session(self, house: "House") -> None:
        subject = house.subject()
        session = session_of(await house.sign_in(subject))

        (started,) = await house.announced(house.person(subject))
        assert started[:4] == ("auth.session_started", session, house.person(subject), session)

    async def test_address_and_device_are_sealed_and_never_stored_in_clear(self, house: "House") -> None:
        address, device = "203.0.113.77", "Canary/7.7 (a device)"
        subject = house.subject()
        await house.sign_in(subject, address=address, device=device)

        (started,) = await house.announced(house.person(subject))
        sealed = json.loads(started.data)["sealed"]
        assert sealed.startswith("clv1:1:")
        (row,) = await house.rows("sessions", house.person(subject))
        assert row["sealed"] is None
        written = f"{started} {row}"
        assert address not in written
        assert "Canary" not in written

    async def test_a_session_that_says_nothing_of_itself_is_sealed_too(self, house: "House") -> None:
        subject = house.subject()
        await house.sign_in(subject)
        (started,) = await house.announced(house.person(subject))
        assert json.loads(started.data)["sealed"].startswith("clv1:1:")

    async def test_address_and_device_are_stored_by_the_vault(self, house: "House") -> None:
        subject = house.subject()
        session = session_of(await house.sign_in(subject, address="203.0.113.77", device="Canary/7.7"))

        stored = await house.sealed_value(house.person(subject), "session", session)
        assert json.loads(stored) == {"address": "203.0.113.77", "device": "Canary/7.7"}

    async def test_of_the_refresh_token_only_its_digest_is_stored(self, house: "House") -> None:
        subject = house.subject()
        grant = await house.sign_in(subject)
        (row,) = await house.rows("sessions", house.person(subject))
        text = grant.refresh_token.get_secret_value()
        handle = handles.parse(text, "rt")
        assert handle is not None
        assert row["current"] == handle.digest
        assert handle.secret not in row["current"]


class TestRefresh:
    async def test_rotates_and_stays_in_the_realm(self, house: "House") -> None:
        first = await house.sign_in(house.subject())
        second = await house.refresh(first)
        third = await house.refresh(second)

        assert len({grant.refresh_token.get_secret_value() for grant in (first, second, third)}) == 3
        assert {session_of(grant) for grant in (first, second, third)} == {session_of(first)}
        assert (third.workspace_id, third.scope) == (None, REALM_SCOPE)
        await house.authenticate(third.access_token)

    async def test_moves_into_a_workspace_one_belongs_to_and_stays_there(self, house: "House") -> None:
        subject = house.subject()
        workspace = await house.create_workspace(house.person(subject))
        moved = await house.refresh(await house.sign_in(subject), workspace)
        stayed = await house.refresh(moved)

        for grant in (moved, stayed):
            assert (grant.workspace_id, grant.scope) == (workspace, OWNER_SCOPE)
            assert (await house.authenticate(grant.access_token)).tenant == workspace

    async def test_is_announced_with_where_the_session_is_now(self, house: "House") -> None:
        subject = house.subject()
        workspace = await house.create_workspace(house.person(subject))
        grant = await house.refresh(await house.sign_in(subject), workspace)

        _, refreshed = await house.announced(house.person(subject))
        assert refreshed[:2] == ("auth.session_refreshed", session_of(grant))
        assert json.loads(refreshed.data) == {"session_id": session_of(grant), "workspace_id": workspace}

    async def test_a_lost_answer_is_given_again_for_thirty_seconds(self, house: "House") -> None:
        first = await house.sign_in(house.subject())
        await house.refresh(first)  # whose answer is lost
        house.pass_(seconds=30)
        again = await house.refresh(first)
        await house.refresh(again)

    async def test_two_tabs_that_refresh_at_once_both_go_on(self, house: "House") -> None:
        """E14: the same token twice at once, then each tab with what it got; a quarter of an hour later, too."""
        first = await house.sign_in(house.subject())
        tabs = list(await asyncio.gather(*(house.refresh(first) for _ in range(3))))
        for _ in range(2):
            for tab in range(3):
                for _ in range(2):
                    tabs[tab] = await house.refresh(tabs[tab])
                    await house.authenticate(tabs[tab].access_token)
        house.pass_(minutes=15)
        for tab in range(3):
            tabs[tab] = await house.refresh(tabs[tab])

    async def test_of_two_tabs_the_one_that_comes_late_after_the_grace_ends_the_session(self, house: "House") -> None:
        """E14: two copies that live on beside each other are one that was stolen."""
        first = await house.sign_in(house.subject())
        one, two = [await house.refresh(first) for _ in range(2)]
        house.pass_(minutes=15)
        newest = await house.refresh(one)
        house.pass_(seconds=31)
        for grant in (two, newest):
            with pytest.raises(InvalidGrant, match=REFUSED):
                await house.refresh(grant)

    async def test_a_predecessor_is_reuse_after_thirty_seconds_however_often_it_was_repeated(
        self, house: "House"
    ) -> None:
        first = await house.sign_in(house.subject())
        newest = await house.refresh(first)
        house.pass_(seconds=29)
        newest = await house.refresh(first)
        house.pass_(seconds=1, microseconds=1)
        for grant in (first, newest):
            with pytest.raises(InvalidGrant, match=REFUSED):
                await house.refresh(grant)

    async def test_a_reused_token_ends_the_session_and_that_is_committed_with_its_reason(self, house: "House") -> None:
        subject = house.subject()
        first = await house.sign_in(subject)
        second = await house.refresh(first)
        third = await house.refresh(second)

        with pytest.raises(InvalidGrant, match=REFUSED):
            await house.refresh(first)

        ended = (await house.announced(house.person(subject)))[-1]
        assert (ended.type, ended.target) == ("auth.session_ended", session_of(first))
        assert json.loads(ended.data)["reason"] == "refresh_reuse"
        for grant in (second, third):
            with pytest.raises(InvalidGrant, match=REFUSED):
                await house.refresh(grant)
            with pytest.raises(Unauthorized, match="is not, or no longer, valid"):
                await house.authenticate(grant.access_token)
        assert (await house.types(house.person(subject))).count("auth.session_ended") == 1

    async def test_a_reused_token_ends_no_other_session_of_the_person(self, house: "House") -> None:
        subject = house.subject()
        other, first = await house.sign_in(subject), await house.sign_in(subject)
        await house.refresh(await house.refresh(first))
        with pytest.raises(InvalidGrant, match=REFUSED):
            await house.refresh(first)
        await house.refresh(other)

    async def test_a_forged_token_of_the_right_shape_ends_nothing(self, house: "House") -> None:
        subject = house.subject()
        first = await house.sign_in(subject)
        second = await house.refresh(first)
        forged = handles.make("rt", house.person(subject), session_of(first), bytes(32))
        with pytest.raises(InvalidGrant, match=REFUSED):
            await house.refresh(forged)
        assert await house.types(house.person(subject)) == ["auth.session_started", "auth.session_refreshed"]
        await house.refresh(second)

    async def test_a_token_carried_over_to_another_person_or_session_is_refused_and_ends_nothing(
        self, house: "House"
    ) -> None:
        subject, victim = house.subject(), house.subject()
        own, theirs = await house.sign_in(subject), await house.sign_in(victim)
        handle = handles.parse(own.refresh_token.get_secret_value(), "rt")
        assert handle is not None
        for person, session in (
            (house.person(victim), session_of(theirs)),
            (house.person(victim), session_of(own)),
            (house.person(subject), session_of(theirs)),
        ):
            with pytest.raises(InvalidGrant, match=REFUSED):
                await house.refresh(handles.make("rt", person, session, handle.secret))
        await house.refresh(own)
        await house.refresh(theirs)

    @pytest.mark.parametrize("text", ["", "clp_rt_nonsense", "x" * 60_000])
    async def test_what_is_no_refresh_token_is_refused(self, house: "House", text: str) -> None:
        with pytest.raises(InvalidGrant, match=REFUSED):
            await house.refresh(text)

    async def test_an_access_token_is_no_refresh_token(self, house: "House") -> None:
        grant = await house.sign_in(house.subject())
        with pytest.raises(InvalidGrant, match=REFUSED):
            await house.refresh(grant.access_token.get_secret_value())

    async def test_a_session_that_never_was_is_refused_though_its_token_was_issued(self, house: "House") -> None:
        person, session = house.person(house.subject()), ids.new("ses")
        secret = handles.issued_secret(house.refresh_key, person, session, bytes(16))
        with pytest.raises(InvalidGrant, match=REFUSED):
            await house.refresh(handles.make("rt", person, session, secret))
        assert await house.announced(person) == []

    async def test_a_session_is_over_after_thirty_days_whatever_happened_since(self, house: "House") -> None:
        subject = house.subject()
        grant = await house.sign_in(subject)
        house.pass_(days=30, microseconds=-1)
        grant = await house.refresh(grant)
        house.pass_(microseconds=1)
        with pytest.raises(InvalidGrant, match=REFUSED):
            await house.refresh(grant)
        with pytest.raises(Unauthorized):
            await house.authenticate(grant.access_token)
        assert "auth.session_ended" not in await house.types(house.person(subject))

    async def test_moving_into_a_workspace_of_others_is_not_found_and_the_token_stays_good(
        self, house: "House"
    ) -> None:
        subject = house.subject()
        grant = await house.sign_in(subject)
        for workspace in (await house.create_workspace(house.person(house.subject())), ids.new("ws")):
            with pytest.raises(NotFound, match=NOWHERE):
                await house.refresh(grant, workspace)
        assert await house.types(house.person(subject)) == ["auth.session_started"]
        await house.refresh(grant)

    async def test_only_a_good_token_learns_whether_there_is_such_a_workspace(self, house: "House") -> None:
        subject = house.subject()
        workspace = await house.create_workspace(house.person(subject))
        first = await house.sign_in(subject)
        forged = handles.make("rt", house.person(subject), session_of(first), bytes(32))
        used = await house.sign_in(subject)
        await house.refresh(await house.refresh(used))
        for token in (forged, used):
            for where in (workspace, ids.new("ws")):
                with pytest.raises(InvalidGrant, match=REFUSED):
                    await house.refresh(token, where)

    async def test_staying_where_one_was_removed_falls_back_to_the_realm(self, house: "House") -> None:
        subject = house.subject()
        person = house.person(subject)
        workspace = await house.create_workspace(person)
        grant = await house.sign_in(subject, workspace)
        await house.remove_member(workspace, person)

        back = await house.refresh(grant)
        assert (back.workspace_id, back.scope) == (None, REALM_SCOPE)
        assert (await house.authenticate(back.access_token)).tenant == person
        assert json.loads((await house.announced(person))[-1].data)["workspace_id"] is None
        with pytest.raises(NotFound, match=NOWHERE):
            await house.refresh(back, workspace)

    async def test_of_two_at_once_both_are_answered_and_the_later_one_goes_on(self, house: "House") -> None:
        grant = await house.sign_in(house.subject())
        answers = await asyncio.gather(house.refresh(grant), house.refresh(grant))
        live = 0
        for answer in answers:
            digest = handles.digest(answer.refresh_token.get_secret_value())
            live += await house.superuser.fetchval("SELECT count(*) FROM auth.sessions WHERE current = $1", digest)
        assert live == 1


class TestLogout:
    def context(self, grant: Grant, person: str, tenant: str | None = None) -> AuthContext:
        return AuthContext(
            tenant=tenant or person,
            principal=person,
            permissions=REALM_PERMISSIONS,
            credential=session_of(grant),
            request_id=ids.new("req"),
        )

    async def test_ends_the_session_with_all_its_tokens(self, house: "House") -> None:
        subject = house.subject()
        first = await house.sign_in(subject)
        second = await house.refresh(first)
        await house.sessions.logout(self.context(second, house.person(subject)), Logout())

        for grant in (first, second):
            with pytest.raises(Unauthorized, match="is not, or no longer, valid"):
                await house.authenticate(grant.access_token)
            with pytest.raises(InvalidGrant, match=REFUSED):
                await house.refresh(grant)
        ended = (await house.announced(house.person(subject)))[-1]
        assert (ended.type, ended.target) == ("auth.session_ended", session_of(first))
        assert json.loads(ended.data)["reason"] == "logout"

    async def test_from_within_a_workspace_is_announced_in_the_realm(self, house: "House") -> None:
        subject = house.subject()
        workspace = await house.create_workspace(house.person(subject))
        grant = await house.sign_in(subject, workspace)
        await house.sessions.logout(self.context(grant, house.person(subject), workspace), Logout())
        assert await house.types(house.person(subject)) == ["auth.session_started", "auth.session_ended"]
        assert await house.types(workspace) == []

    async def test_twice_is_announced_once(self, house: "House") -> None:
        subject = house.subject()
        grant = await house.sign_in(subject)
        for _ in range(2):
            await house.sessions.logout(self.context(grant, house.person(subject)), Logout())
        assert (await house.types(house.person(subject))).count("auth.session_ended") == 1

    async def test_ends_no_other_session_of_one_s_own_nor_anybody_else_s(self, house: "House") -> None:
        subject, victim = house.subject(), house.subject()
        one, other = await house.sign_in(subject), await house.sign_in(subject)
        theirs = await house.sign_in(victim)
        await house.sessions.logout(self.context(one, house.person(subject)), Logout())
        await house.sessions.logout(self.context(theirs, house.person(subject)), Logout())
        await house.authenticate(other.access_token)
        await house.authenticate(theirs.access_token)


class TestAuthenticate:
    INVALID = r"^The token is not, or no longer, valid\. Sign in again or use another token\.$"

    async def test_a_session_s_token_is_the_person_s_and_not_capped(self, house: "House") -> None:
        subject = house.subject()
        grant = await house.sign_in(subject)
        identity = await house.authenticate(grant.access_token)
        assert identity.kind == "session"
        assert identity.credential == session_of(grant)
        assert identity.scopes is None
        assert identity.expires_at == house.now.replace(microsecond=0) + timedelta(seconds=900)

    async def test_every_reason_is_one_refusal(self, house: "House") -> None:
        subject = house.subject()
        person, grant = house.person(subject), await house.sign_in(subject)
        session = session_of(grant)
        body = handles.make("pat", person, ids.new("tok"), bytes(32)).rpartition("_")[0]
        wrong = [
            "",
            "nonsense",
            grant.refresh_token.get_secret_value(),
            access.make(b"another key, just as long as ours", person, session, person, now=house.now, seconds=60),
            access.make(house.access_key, person, session, person, now=house.now, seconds=0),
            access.make(house.access_key, person, ids.new("ses"), person, now=house.now, seconds=60),
            access.make(house.access_key, house.person("x"), session, person, now=house.now, seconds=60),
            f"{body}_{zlib.crc32(body.encode()):08x}",
        ]
        for token in wrong:
            with pytest.raises(Unauthorized, match=self.INVALID):
                await house.authenticate(token)

    async def test_an_access_token_ends_before_its_session_does(self, house: "House") -> None:
        grant = await house.sign_in(house.subject())
        house.pass_(seconds=899)
        await house.authenticate(grant.access_token)
        house.pass_(seconds=1)
        with pytest.raises(Unauthorized, match=self.INVALID):
            await house.authenticate(grant.access_token)
