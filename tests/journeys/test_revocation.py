"""What was revoked through one gateway is refused by all of them, at once; and what holds when the word does not come.

Polled at a pace that a busy machine keeps up; `make bench ROWS=revocation` measures the bar itself.
"""

import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from causeloop_client.calls import CreatedApiToken
from causeloop_common import ids
from causeloop_common.contracts.tenancy import MemberAdded
from tests.support.endings import announce, data_key_outlived, end_membership
from tests.support.poller import Poller, have, outlived
from tests.support.proxy import Proxy
from tests.support.stack import Person, Stack, content_of

pytestmark = pytest.mark.alone

GATEWAYS = 3
RATE = 60.0
SOON = 0.05
"""What is promised of all but a few."""
AT_LAST = 1.0
"""What a machine that does three other things still has to keep."""
LIFE = 3
"""Seconds for which a gateway of these tests remembers, instead of half a minute."""


@pytest.fixture(scope="module")
async def ports(stack: Stack) -> AsyncIterator[list[int]]:
    """Where three gateways listen."""
    async with stack.replicas("gateway", GATEWAYS - 1) as more:
        yield [stack.port_of(name) for name in ("gateway", *more)]


async def revoke(person: Person, token: CreatedApiToken) -> None:
    content_of(await person.delete(f"/api-tokens/{token['id']}"), 204)


async def sign_out(person: Person) -> None:
    content_of(await person.post("/auth/logout"), 204)


def assert_soon(what: str, after: list[float], tell: Callable[[str], None]) -> None:
    last = sorted(after)
    shown = ", ".join(
        f"{name} {seconds * 1000:.0f} ms"
        for name, seconds in (("median", statistics.median(last)), ("slowest", last[-1]))
    )
    tell(f"revocation: {len(after)} × {what}: last success {shown} after the answer")
    assert statistics.median(last) <= SOON, last
    assert last[-1] <= AT_LAST, last


class TestAtThreeGateways:
    async def test_a_revoked_token_opens_nothing_soon_after_the_answer(
        self, ports: list[int], owner: Person, tell: Callable[[str], None]
    ) -> None:
        after = []
        for _ in range(8):
            token = await owner.personal_token("workspace:read")
            after.append(await outlived(ports, token["token"], RATE, partial(revoke, owner, token)))
        assert_soon("token, three gateways", after, tell)

    async def test_a_session_s_access_token_opens_nothing_soon_after_its_end(
        self, stack: Stack, ports: list[int], tell: Callable[[str], None]
    ) -> None:
        after = []
        for _ in range(5):
            person = await stack.sign_up()
            after.append(await outlived(ports, person.token, RATE, partial(sign_out, person)))
        assert_soon("session, three gateways", after, tell)

    async def test_it_is_so_too_where_the_relay_at_work_is_another_replica_s(
        self, stack: Stack, ports: list[int], owner: Person, tell: Callable[[str], None]
    ) -> None:
        """Every second revocation or so is committed by an auth whose relay stands by."""
        async with stack.replicas("auth", 2):
            after = []
            for _ in range(10):
                token = await owner.personal_token("workspace:read")
                after.append(await outlived(ports, token["token"], RATE, partial(revoke, owner, token)))
        assert_soon("token, three gateways and three auths", after, tell)


class TestOfAStanding:
    async def test_a_person_who_belongs_no_more_may_do_nothing_soon_after(
        self, stack: Stack, ports: list[int], tell: Callable[[str], None]
    ) -> None:
        after = []
        async with stack.bus_of("tenancy") as tenancy:
            for _ in range(8):
                person = await stack.sign_up()
                after.append(await outlived(ports, person.token, RATE, partial(end_membership, tenancy, person)))
        assert_soon("standing, three gateways", after, tell)

    async def test_other_people_are_not_forgotten_with_them(self, stack: Stack, owner: Person) -> None:
        """The whole workspace would be asked about again otherwise."""
        async with stack.bus_of("tenancy") as tenancy:
            content_of(await owner.get("/workspace"))
            await announce(tenancy, MemberAdded, owner.workspace, ids.realm("https://elsewhere.test", "somebody"))
            before = await stack.metric("gateway", 'causeloop_memory_lookups_total{memory="standings",result="miss"}')
            content_of(await owner.get("/workspace"))
            after = await stack.metric("gateway", 'causeloop_memory_lookups_total{memory="standings",result="miss"}')
        assert after == before


class TestOfADataKey:
    async def test_it_opens_nothing_at_any_replica_soon_after(self, stack: Stack, tell: Callable[[str], None]) -> None:
        """A vault remembers a key for five minutes."""
        async with stack.replicas("vault", 2), stack.bus_of("vault") as vault:
            after = [await data_key_outlived(vault, await stack.sign_up(), 2 * RATE) for _ in range(8)]
        assert_soon("data key, three vaults", after, tell)


class TestWithTheBusCut:
    """Only the second gateway's wire is: what happens at the others does not reach it."""

    async def test_a_silent_one_serves_nobody_from_memory_after_a_second(
        self, stack: Stack, owner: Person, tell: Callable[[str], None]
    ) -> None:
        token = await owner.personal_token("workspace:read")
        async with behind_a_wire(stack) as (wire, port), Poller(port, token["token"], RATE, patience=0.1) as poller:
            await have([poller], 200, 10)
            cut = time.monotonic()
            wire.silence()
            await revoke(owner, token)
            await have([poller], 503, 5)
            refused_from = next(answer.begun for answer in poller.answers if answer.status == 503) - cut
            wire.mend()
            mended = time.monotonic()
            await have([poller], 401, 20)
            tell(
                f"revocation: bus silent: last success {poller.last_success(cut) * 1000:.0f} ms after the cut, "
                f"refused with 503 from {refused_from * 1000:.0f} ms; mended, never served again"
            )
            assert poller.last_success(cut) <= AT_LAST
            assert refused_from <= AT_LAST + 0.2
            assert poller.last_success(mended) == 0

    async def test_a_closed_one_refuses_at_once_and_serves_again_what_is_still_good(
        self, stack: Stack, owner: Person
    ) -> None:
        revoked, good = [await owner.personal_token("workspace:read") for _ in range(2)]
        async with (
            behind_a_wire(stack) as (wire, port),
            Poller(port, revoked["token"], RATE, patience=0.1) as one,
            Poller(port, good["token"], RATE, patience=0.1) as other,
        ):
            await have([one, other], 200, 10)
            cut = time.monotonic()
            await wire.drop()
            await revoke(owner, revoked)
            await have([one, other], 503, 10)
            assert max(one.last_success(cut), other.last_success(cut)) <= SOON * 2
            wire.mend()
            mended = time.monotonic()
            await have([one], 401, 10)
            await have([other], 200, other.count(200) + 10)
            assert one.last_success(mended) == 0


class TestWithoutARelay:
    async def test_a_revocation_is_published_before_it_is_answered(
        self, stack: Stack, ports: list[int], owner: Person, tell: Callable[[str], None]
    ) -> None:
        """Or a crash of auth right after its answer would leave the token good until auth is back."""
        after = []
        async with stands_still(stack, "causeloop_auth_relay"):
            for _ in range(5):
                token = await owner.personal_token("workspace:read")
                after.append(await outlived(ports, token["token"], RATE, partial(revoke, owner, token)))
        assert_soon("token, three gateways, no relay", after, tell)


class TestWithTheWordLost:
    async def test_no_gateway_serves_longer_than_it_remembers(
        self, stack: Stack, owner: Person, tell: Callable[[str], None]
    ) -> None:
        """Committed, and nobody publishes it."""
        token = await owner.personal_token("workspace:read")
        remembering = stack.replicas("gateway", 1, REMEMBERED_SECONDS=str(LIFE))
        async with remembering as (name,), Poller(stack.port_of(name), token["token"], RATE) as poller:
            await have([poller], 200, 10)
            async with stack.sql() as sql, sql.transaction():
                await sql.execute("SET LOCAL session_replication_role = replica")  # the guard wants an event
                token_id = ids.decode(token["id"], "tok")
                await sql.execute("UPDATE auth.tokens SET revoked_at = now() WHERE id = $1", token_id)
            revoked = time.monotonic()
            await have([poller], 401, 20)
            last = poller.last_success(revoked)
            tell(f"revocation: word lost: last success {last:.1f} s after it, remembered for {LIFE} s")
            assert AT_LAST < last <= LIFE + 0.2  # or it was not lost, and nothing was tested


@asynccontextmanager
async def behind_a_wire(stack: Stack) -> AsyncIterator[tuple[Proxy, int]]:
    """One more gateway that reaches the bus through a proxy; the proxy and the gateway's port."""
    async with (
        Proxy(stack.nats.port) as wire,
        stack.replicas("gateway", 1, NATS_URL=f"nats://127.0.0.1:{wire.port}") as (name,),
    ):
        yield wire, stack.port_of(name)


@asynccontextmanager
async def stands_still(stack: Stack, role: str) -> AsyncIterator[None]:
    """The relay of this role has no connection and gets none."""
    async with stack.sql() as sql:
        await sql.execute(f"ALTER ROLE {role} NOLOGIN")
        try:
            await sql.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", role)
            yield
        finally:
            await sql.execute(f"ALTER ROLE {role} LOGIN")
    await stack.ready()
