"""The bus over TLS: services and the operator's commands keep one rule, and nothing is sent in clear."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from causeloop_cli import streams
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_cli.keys import new_seeds
from causeloop_common.errors import Unavailable
from causeloop_common.messaging import Bus
from causeloop_common.settings import Settings, SettingsError
from causeloop_dev.authority import Authority
from causeloop_dev.installation import Installation
from tests.support.commands import causeloop

SECRET = "a-secret-of-at-least-thirty-two-characters"
ELSEWHERE = "nats://nats.example.com:4222"
INSTALLATION = Installation.new()
OPERATOR = INSTALLATION.seeds["operator"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[EmbeddedNats]:
    authority.server("localhost")
    (file,) = authority.ca_file.parent.glob("server-*.pem")
    tls = f'tls {{ cert_file: "{file}", key_file: "{file}" }}\n'
    with Janitor() as janitor, EmbeddedNats(tls + INSTALLATION.nats_config(), janitor=janitor) as server:
        yield server


def bus(url: str, **environ: str) -> Bus:
    given = {
        "NATS_URL": url,
        "NATS_NKEY_SEED_AUTH": INSTALLATION.seeds["auth"],
        "JWT_SECRET": SECRET,
        **environ,
    }
    settings = Settings.load("auth", given)
    return Bus(settings, settings.keyring())


@asynccontextmanager
async def in_clear() -> AsyncIterator[tuple[str, bytearray]]:
    """A server that offers no TLS, as somebody on the way would: its address, and all that it is sent."""
    received = bytearray()

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.14.0", "max_payload": 4_194_304, "nonce": "n", "headers": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while data := await reader.read(4096):
            received.extend(data)
            if b"PING" in data:
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(session, "127.0.0.1", 0) as listening:
        yield f"tls://localhost:{listening.sockets[0].getsockname()[1]}", received


class TestTls:
    async def test_services_and_the_operator_connect(
        self, server: EmbeddedNats, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """D1: migrate reaches the bus over verified TLS, as the services do."""
        url, file = f"tls://localhost:{server.port}", str(authority.ca_file)
        monkeypatch.setenv("NATS_CA_FILE", file)
        await streams.declare(url, OPERATOR)
        assert set((await streams.differences(url, "operator", OPERATOR)).values()) == {"ok"}
        auth = bus(url, NATS_CA_FILE=file)
        await auth.connect()
        auth.check()
        await auth.close()

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    async def test_a_server_that_is_not_proven_is_refused(
        self, server: EmbeddedNats, authority: Authority, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        """D1: by its authority, and by its name."""
        url = f"tls://{host}:{server.port}"
        trusted = {"NATS_CA_FILE": str(authority.ca_file)} if host == "127.0.0.1" else {}
        for name, value in trusted.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match="NATS_CA_FILE"):
            await streams.declare(url, OPERATOR)
        with pytest.raises(Unavailable, match="NATS does not let auth in"):
            await bus(url, **trusted).connect()

    @pytest.mark.parametrize(
        ("seed", "why"),
        [("", "NATS_NKEY_SEED_AUTH is not set"), (new_seeds()["auth"], "the server does not know NATS_NKEY_SEED_AUTH")],
        ids=["unset", "unknown"],
    )
    async def test_a_credential_that_is_not_let_in_is_named(
        self, server: EmbeddedNats, authority: Authority, seed: str, why: str
    ) -> None:
        """F9: a service without its credential on the bus names the setting, not the class of an error."""
        given = {"NATS_CA_FILE": str(authority.ca_file), "NATS_NKEY_SEED_AUTH": seed}
        with pytest.raises(Unavailable, match=f"NATS does not let auth in: {why}"):
            await bus(f"tls://localhost:{server.port}", **given).connect()

    async def test_who_stands_in_between_cannot_turn_it_off(self) -> None:
        """D1: a tls:// address is never used in clear, whatever the server answers."""
        async with in_clear() as (url, received):
            with pytest.raises(SettingsError):
                await streams.connect(url, "operator", OPERATOR)
            with pytest.raises(Unavailable, match="NATS does not let auth in"):
                await bus(url).connect()
        assert received.startswith(b"\x16\x03")
        assert b"CONNECT" not in received

    @pytest.mark.parametrize("command", [("migrate",), ("dead", "list"), ("events", "purge")], ids=" ".join)
    async def test_production_keeps_the_services_rule_for_the_operator(self, command: tuple[str, ...]) -> None:
        """D1: an address without TLS on another host is refused before anything is done."""
        database = "postgresql://u:p@db.example.com/x?sslmode=verify-full"
        done = await causeloop(
            *command, CAUSELOOP_ENV="production", JWT_SECRET=SECRET, DATABASE_URL=database, NATS_URL=ELSEWHERE,
            NATS_NKEY_SEED_OPERATOR=OPERATOR,
        )  # fmt: skip
        assert "NATS_URL leaves this host without TLS: use a tls:// address." in done.refusal()

    @pytest.mark.parametrize("url", ["nats.example.com:4222", "nats://a:4222,nats://b:4222", "http://127.0.0.1:4222"])
    async def test_the_operators_address_is_read_as_that_of_services(self, url: str) -> None:
        """D1: one reader."""
        with pytest.raises(SettingsError) as services:
            Settings.load("auth", {"NATS_URL": url})
        with pytest.raises(SettingsError) as operators:
            await streams.connect(url, "operator", OPERATOR)
        assert str(services.value) == str(operators.value)
