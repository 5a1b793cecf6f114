"""The identity provider in the tests of auth: a clock of their own, and tokens under unknown keys."""

import asyncio
from typing import Any

import jwt

from causeloop_auth.adapters.identity_provider import IdentityProvider


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def beside(provider: IdentityProvider) -> None:
    """Wait for the fetch that runs beside, if there is one."""
    if provider._fetching is not None:
        await asyncio.wait([provider._fetching])


def stranger(issuer: Any, kid: str) -> str:
    """A token whose key nobody publishes."""
    return jwt.encode(issuer.claims(), issuer.key.private, algorithm="RS256", headers={"kid": kid})
