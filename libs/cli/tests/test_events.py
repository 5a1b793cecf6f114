"""`causeloop events` on a server of its own, whose streams it may purge."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from causeloop_cli import events, streams
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import AUDIT_INTAKE, EVENTS, OPERATOR, STREAMS_API
from causeloop_common.keys import reader_seed
from causeloop_common.settings import SettingsError
from causeloop_dev.installation import Installation

INSTALLATION = Installation.new()
PURGE = argparse.Namespace(action="purge")


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with Janitor() as janitor, EmbeddedNats(INSTALLATION.nats_config(), tmp_path, janitor=janitor) as server:
        monkeypatch.setenv("NATS_URL", server.url)
        monkeypatch.setenv("NATS_NKEY_SEED_OPERATOR", INSTALLATION.seeds[OPERATOR])
        yield server.url


async def publish(url: str, count: int) -> None:
    """Put so many events of the vault into the stream."""
    vault = await nats.connect(url, nkeys_seed_str=INSTALLATION.seeds["vault"], inbox_prefix=topology.inbox("vault"))
    for number in range(count):
        await vault.jetstream(prefix=STREAMS_API).publish(f"evt.ws_1.vault.event_{number}", b"{}")
    await vault.close()


async def take_in(url: str, count: int) -> None:
    """Acknowledge so many events as the intake does."""
    name = topology.reader("audit")
    seed = reader_seed(INSTALLATION.seeds["audit"])
    reader = await nats.connect(url, nkeys_seed_str=seed, inbox_prefix=topology.inbox(name))
    consumer = await reader.jetstream(prefix=STREAMS_API).pull_subscribe_bind(AUDIT_INTAKE.name, EVENTS.name)
    await (await consumer.fetch(count))[-1].ack_sync()
    await reader.close()


async def left(url: str) -> list[int]:
    """The numbers of the first and the last event in the stream."""
    operator = await nats.connect(
        url, nkeys_seed_str=INSTALLATION.seeds[OPERATOR], inbox_prefix=topology.inbox(OPERATOR)
    )
    state = (await operator.jetstream().stream_info(EVENTS.name)).state
    await operator.close()
    return [state.first_seq, state.last_seq]


class TestPurge:
    async def test_removes_what_is_entered_and_nothing_else(self, url: str) -> None:
        """P11: the operator makes space in a stream that fills up, and no event is lost by it."""
        await streams.declare(url, INSTALLATION.seeds[OPERATOR])
        await publish(url, 5)
        await take_in(url, 3)
        client = await streams.connect(url, OPERATOR, INSTALLATION.seeds[OPERATOR])
        assert [await events.purge(client.jetstream()) for _ in range(2)] == [{EVENTS.name: 3}, {EVENTS.name: 0}]
        await client.close()
        assert await left(url) == [4, 5]

    def test_without_a_stream_it_names_the_command_that_makes_it(self, url: str) -> None:
        with pytest.raises(SettingsError, match="Run `causeloop migrate`"):
            events.main(PURGE)
