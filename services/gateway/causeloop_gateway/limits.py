"""Rate limits, checked here alone and before any work is done for a request.

The algorithm is GCRA (ITU-T I.371): for each sender a bucket keeps one number, the moment at which all of its requests
will be available again. A request moves it on by its share of the window; one that would move it further than the
window is refused, and moves nothing. The answer's headers have the state (`draft-ietf-httpapi-ratelimit-headers-11`).

Counts are this process's own: several gateways together admit as many times as much. Memory is bounded: of more senders
than fit, those that were quiet for longest are forgotten, and begin anew.
"""

import ipaddress
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from causeloop_common.contracts.auth import Authenticate
from causeloop_common.contracts.base import Command
from causeloop_common.contracts.limits import ADDRESS, EVERYWHERE, By, Limit
from causeloop_common.errors import RateLimited
from causeloop_common.telemetry import metrics

Headers = tuple[tuple[bytes, bytes], ...]
Clock = Callable[[], int]

SENDERS = 20_000
"""Senders per bucket and generation; there are two generations."""

_SECOND = 1_000_000_000
_PLACES: dict[By, int] = {"principal": 0, "workspace": 1, "address": 2}


class Bucket:
    """The requests that each sender has left under one limit. Times are in nanoseconds."""

    def __init__(self, name: str, limit: Limit, factor: float = 1.0) -> None:
        requests = max(1, round(limit.requests * factor))
        self.name = name
        self.limit = limit._replace(requests=requests)
        self.interval = max(1, limit.per * _SECOND // requests)
        self.policy = f'"{name}";q={requests};w={limit.per}'.encode()
        self.refused = metrics.RATE_LIMITED.labels(name)
        self._window = self.interval * requests
        self._recent: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def take(self, sender: str, now: int) -> int:
        """Count a request. The time that is left of the window; negative when the request is to be refused."""
        full = self._recent.get(sender)
        if full is None:
            full = self._remembered(sender)
        full = (full if full > now else now) + self.interval
        left = self._window - full + now
        if left >= 0:
            self._recent[sender] = full
        return left

    def left(self, sender: str, now: int) -> int:
        """The time that would be left of the window after one more request, which is not counted."""
        return self._window - self.interval - max(self._remembered(sender) - now, 0)

    def charge(self, sender: str, now: int) -> None:
        """Count a request, were it one too many: then the sender waits so much longer."""
        self._recent[sender] = max(self._remembered(sender), now) + self.interval

    def seconds(self, left: int) -> int:
        """Seconds until there is one more request."""
        return -((left % self.interval - self.interval) // _SECOND)

    def _remembered(self, sender: str) -> int:
        """The moment that is kept of a sender, who is among the recent ones from now on."""
        if sender not in self._recent:
            if len(self._recent) >= SENDERS:
                self._before, self._recent = self._recent, {}
            self._recent[sender] = self._before.get(sender, 0)
        return self._recent[sender]


class Admission:
    """The limits of one command."""

    def __init__(self, buckets: tuple[Bucket, ...], clock: Clock) -> None:
        self._buckets = tuple((_PLACES[bucket.limit.by], bucket) for bucket in buckets)
        self._clock = clock
        self._policy = (b"ratelimit-policy", b", ".join(bucket.policy for bucket in buckets))
        self.needs_address = any(bucket.limit.by == ADDRESS for bucket in buckets)

    def take(self, *sender: str) -> tuple[Headers, RateLimited | None]:
        """Count a request of a sender: principal, workspace and address, empty where no limit counts by it.

        The headers of its answer, and its refusal if it is one too many.
        """
        now = self._clock()
        states, refused = [], None
        for place, bucket in self._buckets:
            left = bucket.take(sender[place], now)
            interval = bucket.interval
            seconds = 1 if interval <= _SECOND else bucket.seconds(left)
            if left >= 0:
                states.append(f'"{bucket.name}";r={left // interval};t={seconds}')
                continue
            bucket.refused.inc()
            states.append(f'"{bucket.name}";r=0;t={seconds}')
            refused = refusal(bucket.name, bucket.limit, seconds)
            break
        return (self._policy, (b"ratelimit", ", ".join(states).encode())), refused


class Limits:
    """The buckets of this process. `factor` multiplies the number of requests of every limit."""

    def __init__(self, factor: float = 1.0, clock: Clock = time.monotonic_ns) -> None:
        self._factor = factor
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        (self._unknown,) = self._of(declared(Authenticate, signed_in=False))

    def of(self, command: type[Command[Any]], *, signed_in: bool) -> Admission:
        """The limits of a command, signed in or open to anybody; ValueError where `declared` raises it."""
        return Admission(self._of(declared(command, signed_in=signed_in)), self._clock)

    def require_known(self, address: str) -> str:
        """The sender of a token that has to be looked up; RateLimited when too many of its tokens were refused.

        So nobody guesses tokens, or floods auth with what is none; those who have a valid one do not wait for others.
        """
        sender = network(address)
        if (left := self._unknown.left(sender, self._clock())) < 0:
            self._unknown.refused.inc()
            requests, per, _ = self._unknown.limit
            raise RateLimited(
                f"More than {requests} tokens from this address were refused in {per} s. Wait as long as Retry-After "
                "asks, and send a valid one.",
                retry_after=self._unknown.seconds(left),
            )
        return sender

    def count_refused(self, sender: str) -> None:
        """Count a token of this sender that was refused."""
        self._unknown.charge(sender, self._clock())

    def _of(self, limits: dict[str, Limit]) -> tuple[Bucket, ...]:
        for name, limit in limits.items():
            self._buckets.setdefault(name, Bucket(name, limit, self._factor))
        return tuple(self._buckets[name] for name in limits)


def declared(command: type[Command[Any]], *, signed_in: bool) -> dict[str, Limit]:
    """The limits of a command by their policies' names, which are the sender's kind or the operation.

    ValueError for a command that is open to anybody and has no limit by address.
    """
    own = {} if command.rate_limit is None else {command.operation: command.rate_limit}
    if signed_in:
        return {limit.by: limit for limit in EVERYWHERE} | own
    if command.rate_limit is None or command.rate_limit.by != ADDRESS:
        raise ValueError(f"{command.__name__} is open to anybody: give it a limit by ADDRESS.")
    return own


def refusal(name: str, limit: Limit, seconds: int) -> RateLimited:
    """The refusal of a request that one of the limits does not admit; in so many seconds it does."""
    what = "requests" if name == limit.by else f"'{name}' requests"
    return RateLimited(
        f"This {limit.by} sent more than {limit.requests} {what} in {limit.per} s. Wait as long as Retry-After asks, "
        "then try again.",
        retry_after=seconds,
    )


@lru_cache(maxsize=4096)
def network(address: str) -> str:
    """The part of a client's address that is counted: of IPv6 the network of 64 bits. A port is left out."""
    host = address[1:].partition("]")[0] if address.startswith("[") else address
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
