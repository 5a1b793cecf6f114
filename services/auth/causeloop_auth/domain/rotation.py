"""Rotating refresh tokens with reuse detection (RFC 9700 4.14.2).

A session is a family of refresh tokens with one successor at a time. The newest rotates. Its direct predecessor is
accepted again for 30 seconds while the successor is unused, so that a lost answer logs nobody out. Any older one is
a stolen copy, or its victim: the family ends.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

GRACE = timedelta(seconds=30)


class Verdict(Enum):
    """The decision about a presented refresh token."""

    ROTATE = "rotate"
    """It is the newest: the predecessor is forgotten, this one becomes the predecessor."""
    REPEAT = "repeat"
    """It is the predecessor and its successor's answer was lost: replace the successor."""
    REUSE = "reuse"
    """It was used before: end the session."""
    GONE = "gone"
    """The session is over."""


@dataclass(frozen=True, slots=True)
class Family:
    """The state of a session's refresh tokens; digests are SHA-256."""

    current: bytes
    previous: bytes | None
    rotated_at: datetime
    expires_at: datetime
    ended: bool


def judge(family: Family, presented: bytes, now: datetime) -> Verdict:
    """The verdict on a presented token's digest."""
    if family.ended or now >= family.expires_at:
        return Verdict.GONE
    if hmac.compare_digest(presented, family.current):
        return Verdict.ROTATE
    if family.previous is not None and hmac.compare_digest(presented, family.previous):
        return Verdict.REPEAT if now - family.rotated_at <= GRACE else Verdict.REUSE
    return Verdict.REUSE
