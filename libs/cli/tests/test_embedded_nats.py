"""The embedded nats-server: it greets, keeps its port and its streams, and reports what is wrong."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nats as nats_client
import pytest

from causeloop_cli.embedded import EmbeddedNats, Janitor, ServerFailed, nats
from causeloop_cli.embedded.server import lock_folder
from causeloop_common.contracts import topology

USERS = 'authorization { users: [ { user: "svc", password: "secret", permissions: { publish: "allowed" } } ] }'


@pytest.fixture(scope="module")
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


@pytest.fixture
def server(janitor: Janitor) -> Iterator[EmbeddedNats]:
    with EmbeddedNats("", janitor=janitor) as server:
        yield server


async def put(url: str, data: bytes) -> int:
    """Store a message in a stream that is made if missing; return its sequence number."""
    client = await nats_client.connect(url)
    try:
        stream = client.jetstream()
        await stream.add_stream(name="KEPT", subjects=["kept"])
        return (await stream.publish("kept", data)).seq
    finally:
        await client.close()


def knock(port: int, credentials: dict[str, str]) -> bytes:
    """What the server answers to these credentials, word for word."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        lines = connection.makefile("rwb")
        lines.readline()
        lines.write(b"CONNECT " + json.dumps({"verbose": False, **credentials}).encode() + b"\r\nPING\r\n")
        lines.flush()
        return lines.readline().strip()


class TestStart:
    def test_serves_jetstream_on_the_loopback_below_the_ephemeral_ports(self, server: EmbeddedNats) -> None:
        assert server.alive()
        assert server.port in nats.PORTS
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert asyncio.run(put(server.url, b"x")) == 1

    def test_the_given_configuration_decides_how_large_a_message_may_be(self, janitor: Janitor) -> None:
        with EmbeddedNats(topology.SERVER_LIMITS, janitor=janitor) as server:
            assert asyncio.run(put(server.url, b"x" * 3_000_000)) == 1

    def test_the_given_configuration_decides_who_may_enter(self, janitor: Janitor) -> None:
        with EmbeddedNats(USERS, janitor=janitor) as server:
            assert knock(server.port, {"user": "svc", "pass": "secret"}) == b"PONG"
            assert knock(server.port, {"user": "svc", "pass": "guess"}) == b"-ERR 'Authorization Violation'"
            assert knock(server.port, {}) == b"-ERR 'Authorization Violation'"

    def test_its_configuration_is_for_its_owner_only(self, server: EmbeddedNats) -> None:
        assert (server.home / "nats.conf").stat().st_mode & 0o777 == 0o600
        assert server.home.stat().st_mode & 0o777 == 0o700

    def test_a_broken_configuration_is_shown_with_the_end_of_the_log(self, janitor: Janitor) -> None:
        server = EmbeddedNats("authorization { oops", janitor=janitor)

        with pytest.raises(ServerFailed, match=r"(?s)ended while starting.*Parse error"):
            server.start()

        assert not server.alive()

    def test_a_fixed_port_that_is_taken_is_named(self, janitor: Janitor, server: EmbeddedNats) -> None:
        with pytest.raises(ServerFailed, match=f"Port {server.port} .* is taken by another program"):
            EmbeddedNats("", port=server.port, janitor=janitor).start()

    def test_another_port_is_chosen_when_the_first_was_taken_meanwhile(
        self, janitor: Janitor, server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        choices = iter([server.port, nats.free_port()])
        monkeypatch.setattr(nats, "free_port", lambda: next(choices))

        with EmbeddedNats("", janitor=janitor) as second:
            assert second.alive()
            assert second.port != server.port

    def test_a_connection_to_itself_is_no_greeting(self) -> None:
        with socket.socket() as loop:  # bound and connected to its own port, as an ephemeral port may do by chance
            loop.bind(("127.0.0.1", 0))
            loop.connect(loop.getsockname())
            assert loop.getsockname() == loop.getpeername()

            assert nats._greeted_name(loop.getsockname()[1]) is None


class TestRestart:
    def test_after_a_crash_it_has_the_same_port_and_streams(self, server: EmbeddedNats) -> None:
        asyncio.run(put(server.url, b"before"))
        url, pid = server.url, server.pid
        os.kill(pid, signal.SIGKILL)

        server.restart()

        assert server.url == url
        assert server.pid != pid
        assert asyncio.run(put(url, b"after")) == 2


class TestStop:
    def test_a_throw_away_folder_goes_with_it(self, janitor: Janitor) -> None:
        server = EmbeddedNats("", janitor=janitor)
        server.start()
        home = server.home
        assert home.exists()

        server.stop()
        server.stop()

        assert not home.exists()
        assert not server.alive()


class TestLastingFolder:
    def test_streams_are_there_at_the_next_start(self, janitor: Janitor, tmp_path: Path) -> None:
        for sequence in (1, 2):
            with EmbeddedNats("", tmp_path / "bus", janitor=janitor) as server:
                assert asyncio.run(put(server.url, b"kept")) == sequence

    @pytest.mark.parametrize(
        "name",
        ["donn\u00e9es", "\u6570\u636e \U0001f4be", 'a "b"', "it's", "$HOME", "a\\b", os.fsdecode(b"\xff")],
        ids=ascii,
    )
    def test_may_have_any_name(self, janitor: Janitor, tmp_path: Path, name: str) -> None:
        """F10: `make dev DATA=donn\u00e9es` ended with an error of the server about its configuration."""
        with EmbeddedNats("", tmp_path / name, janitor=janitor) as server:
            assert asyncio.run(put(server.url, b"one")) == 1
        assert (tmp_path / name / "jetstream").is_dir()

    def test_is_used_by_one_server_at_a_time(
        self, janitor: Janitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nats, "lock_folder", partial(lock_folder, patience=0.1))
        with EmbeddedNats("", tmp_path, janitor=janitor) as first:
            with pytest.raises(ServerFailed, match="in use by another running server"):
                EmbeddedNats("", tmp_path, janitor=janitor).start()
            assert first.alive()
