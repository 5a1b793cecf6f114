"""Who may use the bus besides the services, and what is asked over it."""

import secrets
from collections.abc import Mapping

import nkeys
from nats.aio.client import Client

from causeloop_cli.keys import public_key
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology


def observers() -> dict[str, str]:
    """A seed for one more user of each account."""
    accounts = (topology.SERVICES_ACCOUNT, topology.STREAMS_ACCOUNT, *map(reading, topology.readers()))
    return {
        account: nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER).decode() for account in accounts
    }


def reading(service: str) -> str:
    """The account in which a service reads its consumers."""
    return topology.reader(service).upper()


def with_observers(config: str, observers: Mapping[str, str]) -> str:
    """The configuration with one more user in each account, by its seed, who may publish and subscribe to all."""
    for account, seed in observers.items():
        before, begin, after = config.partition(f"  {account} {{\n")
        after = after.replace("    users: [\n", f"    users: [\n      {{ nkey: {public_key(seed)} }}\n", 1)
        config = before + begin + after
    return config


async def through(*clients: Client) -> None:
    """Wait until the server has all that these clients published, and each client all that was sent to it before.

    Twice: nats-py sends the first PING ahead of what still waits to be sent.
    """
    for _ in range(2):
        for client in clients:
            await client.flush()


def asking(tenant: str, principal: str, *permissions: str, issuer: str = "gateway") -> AuthContext:
    """The context of a command that a service sends on somebody's behalf."""
    return AuthContext(
        tenant=tenant,
        principal=principal,
        permissions=frozenset(map(str, permissions)),
        credential=ids.new("ses"),
        issuer=issuer,
        request_id=ids.new("req"),
    )
