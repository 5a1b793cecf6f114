"""Rotating refresh tokens with reuse detection (RFC 9700 4.14.2).

A session is a family of refresh tokens with one successor at a time. The newest rotates. Its direct predecessor is
accepted again for 30 seconds while the successor is unused, so that a lost answer logs nobody out. Any older one is
a stolen copy, or its victim: the family ends.

Two tabs of one browser may present the same token at once; then it has two successors. Both live, and each may rotate,
for as long as the predecessor is accepted. After that the one that is used first is the only one: the others count as
predecessors from then on, are accepted for 30 seconds more, and end the family after that.
"""

import hmac
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

GRACE = timedelta(seconds=30)
MOST_SUCCESSORS = 8
"""Of so many tabs at once each goes on; of more, the last ones do."""
_MOST_KEPT = 64
"""Predecessors that are accepted at a time."""


class Verdict(Enum):
    """The decision about a presented refresh token."""

    ROTATE = "rotate"
    """It is a newest one: it becomes a predecessor."""
    REPEAT = "repeat"
    """It is a predecessor, whose successor's answer was lost or is another tab's: it gets one more successor."""
    REUSE = "reuse"
    """It was used before: end the session."""
    GONE = "gone"
    """The session is over."""


@dataclass(frozen=True, slots=True)
class Family:
    """The state of a session's refresh tokens: the newest and their predecessors, as SHA-256 digests, latest first.

    `rotated_at` is when the predecessors were used, the first of them.
    """

    newest: tuple[bytes, ...]
    predecessors: tuple[bytes, ...]
    rotated_at: datetime
    expires_at: datetime
    ended: bool

    def is_in_grace(self, now: datetime) -> bool:
        """Whether predecessors are still accepted."""
        return now - self.rotated_at <= GRACE


def judge(family: Family, presented: bytes, now: datetime) -> Verdict:
    """The verdict on a presented token's digest."""
    if family.ended or now >= family.expires_at:
        return Verdict.GONE
    if _is_one_of(presented, family.newest):
        return Verdict.ROTATE
    if _is_one_of(presented, family.predecessors) and family.is_in_grace(now):
        return Verdict.REPEAT
    return Verdict.REUSE


def rotate(family: Family, presented: bytes, successor: bytes, now: datetime) -> Family:
    """The family after a token that rotates or repeats got its successor."""
    if presented not in family.newest:
        return replace(family, newest=(successor, *family.newest)[:MOST_SUCCESSORS])
    others = tuple(digest for digest in family.newest if digest != presented)
    if others and family.is_in_grace(now):
        return replace(family, newest=(successor, *others), predecessors=(presented, *family.predecessors)[:_MOST_KEPT])
    return replace(family, newest=(successor,), predecessors=(presented, *others), rotated_at=now)


def _is_one_of(presented: bytes, digests: tuple[bytes, ...]) -> bool:
    return any(hmac.compare_digest(presented, digest) for digest in digests)
