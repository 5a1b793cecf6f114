"""An identity provider that is slow or silent, in front of an auth with two workers: nobody else waits."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import jwt
import pytest

from causeloop_auth import app
from causeloop_auth.adapters import identity_provider
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.auth import Authenticate, Exchange
from causeloop_common.errors import InvalidGrant, Unavailable
from causeloop_common.messaging import Bus
from causeloop_common.permissions import Internal
from causeloop_dev.testing import Servers

if TYPE_CHECKING:
    from conftest import Door, House


@pytest.fixture
async def asker(servers: Servers, house: "House", gateway: Bus, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    """The gateway's bus; the auth behind it refetches as soon as it is asked for an unknown key."""
    monkeypatch.setattr(identity_provider, "_REFETCH_SECONDS", 0.0)
    environ = {
        **servers.environ["auth"],
        "CLERK_JWKS_URL": house.issuer.jwks_url,
        "CLERK_AUTHORIZED_PARTIES": "http://app.causeloop.test",
        "DATABASE_WORKERS": "2",
    }
    application = app.create(environ)
    await application.start()
    yield gateway
    house.issuer.open.set()
    house.issuer.drips = False
    await application.stop()


@pytest.fixture
def ctx() -> AuthContext:
    held = frozenset({Internal.SIGN_IN, Internal.AUTHENTICATE})
    return AuthContext(tenant=ids.INSTALLATION, principal="svc_gateway", permissions=held, request_id=ids.new("req"))


def exchange(token: str) -> Exchange:
    return Exchange.model_validate({"subject_token": token})


def stranger(issuer: "Door") -> str:
    """A session whose key nobody publishes."""
    unknown = type(issuer.key)()
    return jwt.encode(issuer.claims(), unknown.private, algorithm="RS256", headers={"kid": unknown.kid})


class TestExchange:
    @pytest.mark.alone
    @pytest.mark.parametrize("how", ["silent", "dripping"])
    async def test_with_unknown_keys_waits_and_keeps_nobody_waiting(
        self, house: "House", asker: Bus, ctx: AuthContext, how: str
    ) -> None:
        """E1, E2: those with unknown keys wait aside, and nobody else waits."""
        known = [house.issuer.sign(house.subject()) for _ in range(10)]
        grant = await asker.call(ctx, exchange(house.issuer.sign(house.subject())))
        other = Authenticate.model_validate({"token": grant.access_token.get_secret_value()})
        if how == "silent":
            house.issuer.open.clear()
        else:
            house.issuer.drips = True

        token = stranger(house.issuer)
        waiting = [asyncio.create_task(asker.call(ctx, exchange(token))) for _ in range(8)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        with pytest.raises(Unavailable, match="The auth service is busy"):  # eight wait aside, and no more
            await asker.call(ctx, exchange(token))
        began = time.monotonic()
        await asyncio.gather(*(asker.call(ctx, other) for _ in range(16)))
        await asyncio.gather(*(asker.call(ctx, exchange(one)) for one in known))
        assert time.monotonic() - began < 1
        assert not any(task.done() for task in waiting)

        house.issuer.drips = False
        house.issuer.open.set()
        for answer in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(answer, InvalidGrant | Unavailable)
