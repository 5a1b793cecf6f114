"""One service's relay in a process of its own, its settings in the environment.

    python -m bench.relay_process tenancy [--without-receipts]

Without receipts it subscribes to none, computes no digest and looks for nothing that is missing: a relay as it was when
an event counted as delivered once the stream had acknowledged it.
"""

import argparse
import asyncio
import os
from unittest import mock

import uvloop

from causeloop_common.application import settle_memory
from causeloop_common.database import role_connections
from causeloop_common.leader import Leader
from causeloop_common.messaging import Bus
from causeloop_common.relay import Relay
from causeloop_common.relay.receipts import Receipts
from causeloop_common.settings import Settings


class _NoReceipts(Receipts):
    """Expects none."""

    async def open(self) -> None:
        """Subscribe to nothing."""

    def expect(self, sequences: object, rows: object, digests: object) -> None:
        """Remember nothing."""

    async def settle(self) -> bool:
        """Nothing is to do."""
        return False


class _Unreceipted(Relay):
    """Publishes and marks alone."""

    def __init__(self, leader: Leader, service: str, bus: Bus, wake: asyncio.Event, key: bytes) -> None:
        super().__init__(leader, service, bus, wake, key)
        self._receipts = _NoReceipts(leader, service, bus)

    async def _measure_unreceipted(self) -> None:
        """There is nothing to measure."""


async def _run(service: str, kind: type[Relay]) -> None:
    settings = Settings.load(service, os.environ)
    keys, role = settings.keyring(), f"causeloop_{service}_relay"
    bus = Bus(settings, keys)
    await bus.connect()
    leader = Leader(role_connections(settings.dsn(role), role), service, "relay")
    settle_memory()
    await leader.run(kind(leader, service, bus, asyncio.Event(), keys.own("relay/v1")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("service")
    parser.add_argument("--without-receipts", action="store_true")
    options = parser.parse_args()
    if options.without_receipts:
        with mock.patch("causeloop_common.relay.work.digest", return_value=b""):
            uvloop.run(_run(options.service, _Unreceipted))
    else:
        uvloop.run(_run(options.service, Relay))
