"""What was revoked through one gateway is refused by all of them, at once; and what holds when the word does not come.

Polled at a pace that a busy machine keeps up; `make bench ROWS=revocation` measures the bar itself.
"""

import statistics
from collections.abc import Callable
from functools import partial

from tests.poller import outlived
from tests.stack import Person, Stack, told

GATEWAYS = 3
RATE = 60.0
SOON = 0.05
"""What is promised of all but a few."""
AT_LAST = 1.0
"""What a machine that does three other things still has to keep."""
LIFE = 3
"""Seconds for which a gateway of these tests remembers, instead of half a minute."""


async def revoke(person: Person, token: dict[str, str]) -> None:
    told(await person.delete(f"/api-tokens/{token['id']}"), 204)


async def sign_out(person: Person) -> None:
    told(await person.post("/auth/logout"), 204)


def assert_soon(what: str, after: list[float], tell: Callable[[str], None]) -> None:
    last = sorted(after)
    told = ", ".join(
        f"{name} {seconds * 1000:.0f} ms"
        for name, seconds in (("median", statistics.median(last)), ("p99", last[int(len(last) * 0.99)]))
    )
    tell(f"revocation: {len(after)} × {what}: last success {told} after the answer")
    assert statistics.median(last) <= SOON, last
    assert last[-1] <= AT_LAST, last


class TestAtThreeGateways:
    async def test_a_revoked_token_opens_nothing_soon_after_the_answer(
        self, stack: Stack, owner: Person, tell: Callable[[str], None]
    ) -> None:
        async with stack.replicas("gateway", GATEWAYS - 1) as more:
            ports = [stack.port_of(name) for name in ("gateway", *more)]
            after = []
            for _ in range(8):
                token = await owner.personal_token("workspace:read")
                after.append(await outlived(ports, token["token"], RATE, partial(revoke, owner, token)))
        assert_soon("token, three gateways", after, tell)

    async def test_a_session_s_access_token_opens_nothing_soon_after_its_end(
        self, stack: Stack, tell: Callable[[str], None]
    ) -> None:
        async with stack.replicas("gateway", GATEWAYS - 1) as more:
            ports = [stack.port_of(name) for name in ("gateway", *more)]
            after = []
            for _ in range(5):
                person = await stack.sign_up()
                after.append(await outlived(ports, person.token, RATE, partial(sign_out, person)))
        assert_soon("session, three gateways", after, tell)

    async def test_it_is_so_too_where_the_relay_at_work_is_another_replica_s(
        self, stack: Stack, owner: Person, tell: Callable[[str], None]
    ) -> None:
        """Every second revocation or so is committed by an auth whose relay stands by."""
        async with stack.replicas("auth", 2), stack.replicas("gateway", GATEWAYS - 1) as more:
            ports = [stack.port_of(name) for name in ("gateway", *more)]
            after = []
            for _ in range(10):
                token = await owner.personal_token("workspace:read")
                after.append(await outlived(ports, token["token"], RATE, partial(revoke, owner, token)))
        assert_soon("token, three gateways and three auths", after, tell)
