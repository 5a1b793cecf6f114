"""Declaring streams on a server that has some already."""

from pathlib import Path

import nats
from nats.js.api import StreamConfig

from causeloop_cli import streams
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_cli.keys import public_key
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import EVENTS, OPERATOR, STREAMS_API
from causeloop_dev.installation import Installation


class TestDeclare:
    async def test_an_installation_whose_services_shared_the_account_of_the_streams_keeps_its_events(
        self, tmp_path: Path
    ) -> None:
        installation = Installation.new()
        seed = installation.seeds[OPERATOR]
        shared = f"accounts {{ CAUSELOOP {{ jetstream: enabled, users: [{{ nkey: {public_key(seed)} }}] }} }}"
        with Janitor() as janitor:
            with EmbeddedNats(shared, tmp_path, janitor=janitor) as server:
                client = await nats.connect(server.url, nkeys_seed_str=seed)
                await client.jetstream().add_stream(StreamConfig(EVENTS.name, subjects=["evt.>"], deny_delete=True))
                await client.jetstream().publish("evt.ws_1.vault.before", b"before")
                await client.close()

            with EmbeddedNats(installation.nats_config(), tmp_path, janitor=janitor) as server:
                for _ in range(2):
                    await streams.declare(server.url, seed)
                assert set((await streams.differences(server.url, OPERATOR, seed)).values()) == {"ok"}
                vault = await nats.connect(
                    server.url, nkeys_seed_str=installation.seeds["vault"], inbox_prefix="_INBOX.vault"
                )
                acknowledged = await vault.jetstream(prefix=STREAMS_API).publish("evt.ws_1.vault.after", b"after")
                await vault.close()
                client = await nats.connect(server.url, nkeys_seed_str=seed, inbox_prefix=topology.inbox(OPERATOR))
                kept = [await client.jetstream().get_msg(EVENTS.name, number) for number in (1, acknowledged.seq)]
                await client.close()
        before, after = ((message.subject or "", message.data) for message in kept)
        assert before == ("evt.ws_1.vault.before", b"before")
        assert acknowledged.seq == 2
        assert after[1] == b"after"
        first, partition, *rest = after[0].split(".")
        assert (first, rest) == ("evt", ["ws_1", "vault", "after"])
        assert 0 <= int(partition) < topology.PARTITIONS
