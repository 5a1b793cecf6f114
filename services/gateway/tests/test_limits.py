"""Rate limits: the buckets, by a clock of their own, and the routes of a gateway that admits little."""

import math
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common.contracts.audit import ListEvents, ReadStream
from causeloop_common.contracts.auth import Authenticate, Exchange, Refresh
from causeloop_common.contracts.limits import ADDRESS, EVERYWHERE, MINUTE, PRINCIPAL, Limit
from causeloop_common.errors import RateLimited
from causeloop_common.telemetry import metrics
from causeloop_gateway import limits as module
from causeloop_gateway.limits import Admission, Bucket, Limits, declared, network
from causeloop_gateway.routes import ENDPOINTS, STREAMS

if TYPE_CHECKING:
    from conftest import House, Person

SECOND = 1_000_000_000


class Time:
    now = 10**15

    def __call__(self) -> int:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def bucket() -> Bucket:
    """Ten a minute: one more every 6 s."""
    return Bucket("thing", Limit(10, per=MINUTE, by=PRINCIPAL))


def admits(bucket: Bucket, time: Time, count: int, sender: str = "a") -> list[bool]:
    """Whether it admits each of so many requests at once."""
    return [bucket.take(sender, time.now) >= 0 for _ in range(count)]


def state(route: Admission, *sender: str) -> str:
    (_, (_, text)), _ = route.take(*sender)
    return text.decode()


class TestBucket:
    def test_admits_as_many_at_once_as_its_limit_has_and_then_one_by_one(self, bucket: Bucket, time: Time) -> None:
        assert admits(bucket, time, 12) == [True] * 10 + [False] * 2
        time.passes(5.999)
        assert admits(bucket, time, 1) == [False]
        time.passes(0.001)
        assert admits(bucket, time, 2) == [True, False]
        time.passes(60)
        assert admits(bucket, time, 11) == [True] * 10 + [False]

    def test_a_refused_request_costs_nothing(self, bucket: Bucket, time: Time) -> None:
        admits(bucket, time, 1000)
        time.passes(6)
        assert admits(bucket, time, 1) == [True]

    def test_senders_do_not_share(self, bucket: Bucket, time: Time) -> None:
        admits(bucket, time, 11)
        assert admits(bucket, time, 1, "b") == [True]

    def test_a_charge_beyond_the_limit_is_waited_for(self, bucket: Bucket, time: Time) -> None:
        for _ in range(20):
            bucket.charge("a", time.now)
        assert math.ceil(-bucket.left("a", time.now) / SECOND) == 66
        time.passes(66)
        assert bucket.left("a", time.now) >= 0

    def test_a_factor_multiplies_the_requests_and_leaves_at_least_one(self) -> None:
        limit = Limit(10, per=MINUTE, by=PRINCIPAL)
        assert Bucket("thing", limit, 2.5).policy == b'"thing";q=25;w=60'
        assert Bucket("thing", limit, 0.001).policy == b'"thing";q=1;w=60'

    def test_is_bounded_and_forgets_those_that_were_quiet(
        self, bucket: Bucket, time: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SENDERS", 10)
        admits(bucket, time, 11, "busy")
        admits(bucket, time, 11, "quiet")
        for number in range(1000):
            admits(bucket, time, 1, str(number))
            if number % 5 == 0:
                assert admits(bucket, time, 1, "busy") == [False]
            assert len(bucket._recent) + len(bucket._before) <= 20
        assert admits(bucket, time, 1, "quiet") == [True]


class TestAdmission:
    def test_states_what_is_left_and_when_there_is_one_more(self, bucket: Bucket, time: Time) -> None:
        route = Admission((bucket,), time)
        assert bucket.policy == b'"thing";q=10;w=60'
        assert state(route, "a") == '"thing";r=9;t=6'
        time.passes(2)
        assert state(route, "a") == '"thing";r=8;t=4'
        assert [state(route, "a") for _ in range(9)][-2:] == ['"thing";r=0;t=4', '"thing";r=0;t=4']
        time.passes(3.5)
        assert state(route, "a") == '"thing";r=0;t=1'
        time.passes(1)
        assert state(route, "a") == '"thing";r=0;t=6'


class TestNetwork:
    @pytest.mark.parametrize(
        ("address", "counted"),
        [
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:4711", "203.0.113.9"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("", ""),
            ("unix", "unix"),
            ("[", "["),
        ],
    )
    def test_is_what_one_client_has_to_itself(self, address: str, counted: str) -> None:
        assert network(address) == counted


class TestDeclared:
    def test_every_route_has_limits_and_an_open_one_has_them_by_address(self) -> None:
        for endpoint in (*ENDPOINTS, *STREAMS):
            found = declared(endpoint.command, signed_in=bool(endpoint.credentials))
            kinds = {limit.by for limit in found.values()}
            assert kinds >= ({"principal", "workspace"} if endpoint.credentials else {ADDRESS})

    def test_signing_in_and_streams_are_stricter_than_the_rest(self) -> None:
        everywhere = min(limit.requests / limit.per for limit in EVERYWHERE)
        for command in (Exchange, Refresh, Authenticate, ReadStream):
            assert command.rate_limit is not None
            assert command.rate_limit.requests / command.rate_limit.per < everywhere / 10

    def test_a_command_open_to_anybody_needs_one_by_address(self) -> None:
        for command in (ListEvents, ReadStream):
            with pytest.raises(ValueError, match="is open to anybody: give it a limit by ADDRESS"):
                declared(command, signed_in=False)

    def test_commands_share_the_limits_of_all_commands(self, time: Time) -> None:
        limits, sender = Limits(0.01, time), ("usr", "ws", "")  # 3 a second
        first, second = (limits.of(command, signed_in=True) for command in (ListEvents, ReadStream))
        turns = [first, second, first, second]
        assert [route.take(*sender)[1] is None for route in turns] == [True, True, True, False]


@pytest.fixture(scope="module")
def gateway_environ() -> dict[str, str]:
    return {"RATE_LIMIT_FACTOR": "0.5", "TRUSTED_PROXIES": "1"}


@pytest.fixture
async def owner(house: "House") -> "Person":
    return await house.sign_up()


def counted(policy: str) -> float:
    return float(metrics.RATE_LIMITED.labels(policy)._value.get())


class TestRoutes:
    async def test_answers_have_the_limits_and_what_is_left(self, house: "House", owner: "Person") -> None:
        answer = await house.call("GET", "/secrets", owner.token)
        assert answer.headers["ratelimit-policy"] == '"principal";q=150;w=1, "workspace";q=500;w=1'
        assert answer.headers["ratelimit"] == '"principal";r=149;t=1, "workspace";r=499;t=1'

    async def test_a_refusal_has_them_too(self, house: "House", owner: "Person") -> None:
        answer = await house.call("GET", "/secrets/nothing", owner.token)
        assert answer.status_code == 404
        assert "ratelimit" in answer.headers

    async def test_one_too_many_is_429_and_says_when_to_come_again(self, house: "House", owner: "Person") -> None:
        before = counted("create_workspace")
        answers = [
            await house.call("POST", "/workspaces", owner.realm_token, json={"name": "B", "slug": "b"})
            for _ in range(5)  # the first one was made to sign up
        ]
        *made, refused = answers
        assert [answer.status_code for answer in answers] == [201] * 4 + [429]
        assert made[0].headers["ratelimit"].endswith('"create_workspace";r=3;t=12')
        assert refused.json()["code"] == "rate_limited"
        assert refused.json()["detail"] == (
            "This principal sent more than 5 'create_workspace' requests in 60 s. Wait as long as Retry-After asks, "
            "then try again."
        )
        assert 1 <= int(refused.headers["retry-after"]) <= 12
        assert refused.headers["ratelimit"].endswith(f'"create_workspace";r=0;t={refused.headers["retry-after"]}')
        assert counted("create_workspace") == before + 1
        assert (await house.call("GET", "/me/workspaces", owner.realm_token)).is_success

    async def test_a_principal_is_counted_over_all_its_tokens_and_routes(self, house: "House", owner: "Person") -> None:
        made = await house.personal_token(owner, "secrets:read", "keys:read")
        (route, *_) = house.listener.config.app._routes["GET", "secrets"]  # type: ignore[union-attr]
        (_, everywhere), *_ = route._limits._buckets
        for _ in range(150 * 30):  # half a minute's requests
            everywhere.charge(owner.id, monotonic_ns())
        for path in ("/secrets", "/keys"):
            for token in (made["token"], owner.token):
                await house.refused(429, "rate_limited", "GET", path, token)
        assert (await house.call("GET", "/secrets", (await house.sign_up()).token)).is_success

    async def test_signing_in_is_counted_by_the_address_that_the_proxy_saw(self, house: "House") -> None:
        async def exchange(address: str) -> int:
            headers = {"x-forwarded-for": f"127.0.0.1, {address}"}
            body = {"subject_token": "none"}
            return (await house.call("POST", "/auth/exchange", headers=headers, json=body)).status_code

        assert [await exchange(f"2001:db8::{number}") for number in range(32)] == [401] * 30 + [429] * 2
        assert await exchange("2001:db8:0:1::1") == 401

    async def test_a_request_is_refused_before_its_body_is_read(self, house: "House") -> None:
        headers = {"x-forwarded-for": "198.51.100.7", "content-type": "application/json"}
        answers = [await house.call("POST", "/auth/exchange", headers=headers, content=b"{" * 9) for _ in range(31)]
        assert [answer.status_code for answer in answers] == [400] * 30 + [429]

    async def test_tokens_that_are_refused_are_counted_and_good_ones_are_not(
        self, house: "House", owner: "Person"
    ) -> None:
        headers = {"x-forwarded-for": "198.51.100.8"}

        async def ask(token: str) -> Any:
            return await house.call("GET", "/secrets", token, headers=headers)

        made = [(await house.personal_token(owner, "secrets:read"))["token"] for _ in range(3)]
        assert [(await ask(token)).status_code for token in made[:2]] == [200] * 2
        answers = [await ask(f"guess{number}") for number in range(32)]
        assert [answer.status_code for answer in answers] == [401] * 30 + [429] * 2
        assert answers[-1].json()["detail"].startswith("More than 30 tokens from this address were refused in 60 s.")
        assert (await ask(made[0])).status_code == 200, "a token that is remembered is not looked up"
        assert (await ask(made[2])).status_code == 429
        assert (await house.call("GET", "/secrets", made[2])).status_code == 200, "from another address"


class TestRefusal:
    def test_names_the_limit_of_all_requests_and_that_of_one_operation(self) -> None:
        found = module.refusal("workspace", EVERYWHERE[1], 2)
        assert isinstance(found, RateLimited)
        assert found.detail.startswith("This workspace sent more than 1000 requests in 1 s.")
        assert found.retry_after == 2
