"""A credential that the server's configuration does not permit what this version needs."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_cli.keys import public_key
from causeloop_common.contracts import topology
from causeloop_common.errors import Unavailable
from causeloop_common.messaging import Bus
from causeloop_common.messaging.server import _covers
from causeloop_common.settings import Settings
from causeloop_dev.installation import Installation

PATIENCE = 10.0
_WATCH = """
import asyncio, os, sys
from causeloop_common.messaging import Bus
from causeloop_common.settings import Settings

async def watch():
    settings = Settings.load(sys.argv[1], os.environ)
    bus = Bus(settings, settings.keyring())
    await bus.connect()
    print("connected", flush=True)
    await bus.ended()
    print("ended", flush=True)
    os._exit(0)

asyncio.run(watch())
"""
"""A process of its own: the library leaves a task and a socket behind, where a service ends."""


class Older:
    """A server with the configuration of this version, from which a program can take subjects."""

    def __init__(self, folder: Path, janitor: Janitor) -> None:
        self._installation = Installation.new()
        self._server = EmbeddedNats(self._installation.nats_config(), folder, janitor=janitor)
        self._server.start()
        self._path = folder / "nats.conf"
        self._text = self._path.read_text()

    def without(self, *subjects: str) -> None:
        """Take these away from every credential."""
        text = self._text
        for subject in subjects:
            assert f'"{subject}"' in text
            text = text.replace(f'"{subject}", ', "").replace(f', "{subject}"', "")
        self._read(text)

    def other(self, service: str, change: Callable[[str], str]) -> None:
        """Change the line of this service's credential."""
        key = public_key(self._installation.seeds[service])
        self._read("\n".join(change(line) if key in line else line for line in self._text.splitlines()))

    def elsewhere(self, service: str) -> None:
        """Move this service's credential into an account of its own."""
        key = public_key(self._installation.seeds[service])
        line = next(line for line in self._text.splitlines() if key in line)
        self._read(
            self._text.replace(line, "").replace("accounts {", f"accounts {{ ELSEWHERE {{ users: [ {line} ] }}", 1)
        )

    def _read(self, text: str) -> None:
        """Write the configuration, and wait until the server has read it."""
        self._path.write_text(text)
        read = self._reloads()
        os.kill(self._server.pid, signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while self._reloads() == read:
            assert time.monotonic() < deadline, self._server.log.read_text()[-1000:]
            time.sleep(0.01)

    def _reloads(self) -> int:
        return self._server.log.read_text().count("Reloaded server configuration")

    def bus(self, service: str) -> Bus:
        """A service's place on the bus, not yet taken."""
        settings = Settings.load(service, self.environ(service))
        return Bus(settings, settings.keyring())

    def environ(self, service: str) -> dict[str, str]:
        """What a service would be given."""
        return self._installation.environ(service, "postgresql://127.0.0.1/none", self._server.url)

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Older]:
    with Janitor() as janitor:
        server = Older(tmp_path_factory.mktemp("nats"), janitor)
        yield server
        server.stop()


async def refusal(bus: Bus) -> str:
    """The sentence with which a bus is not ready; '' if it is."""
    try:
        bus.check()
    except Unavailable as error:
        return error.detail
    return ""


async def until(holds: Callable[[str], bool], bus: Bus) -> str:
    async with asyncio.timeout(PATIENCE):
        while not holds(found := await refusal(bus)):  # noqa: ASYNC110  it lies in the server
            await asyncio.sleep(0.02)
    return found


class TestRights:
    @pytest.mark.parametrize("service", topology.SERVICES)
    async def test_a_service_that_lacks_one_of_its_subscriptions_is_not_ready(self, older: Older, service: str) -> None:
        """F1: whichever subscription the accounts of an earlier release do not have, at the start and later."""
        subject = next(one for one in reversed(topology.permissions(service).subscribe) if "INBOX" not in one)
        older.without()
        bus = older.bus(service)
        await bus.connect()
        try:
            assert await refusal(bus) == ""

            await bus.subscribe(subject, _ignore)
            older.without(subject)
            found = await until(bool, bus)
            assert found.startswith(f"NATS does not permit {service} to ")
            assert f"subscribe {subject}. The server's configuration is older than this version" in found
            late = older.bus(service)
            with pytest.raises(Unavailable, match="does not permit"):
                await late.connect()
            await late.close()

            older.without()
            bus._rights.doubt(bus.client)  # nothing is refused now, so nothing makes it ask before it reconnects
            await until(lambda lack: not lack, bus)
        finally:
            await bus.close()
            older.without()

    async def test_what_it_may_not_publish_is_named(self, older: Older) -> None:
        """F1: the gateway could ask nobody who a token stands for."""
        older.without("cmd.auth.authenticate")
        bus = older.bus("gateway")
        with pytest.raises(Unavailable, match=r"permit gateway to publish cmd\.auth\.authenticate\."):
            await bus.connect()
        await bus.close()
        older.without()

    async def test_the_reader_of_a_consumer_is_asked_for_too(self, older: Older) -> None:
        """F1: the intake would read nothing."""
        subject = f"{topology.STREAMS_API}.CONSUMER.RESET.EVENTS.audit_intake"
        older.without(subject)
        bus = older.bus("audit")
        with pytest.raises(Unavailable, match=rf"permit audit_reader to publish {re.escape(subject)}"):
            await bus.connect()
        await bus.close()
        older.without()

    async def test_a_server_that_does_not_answer_has_an_older_configuration(self, older: Older) -> None:
        """F1: accounts from before a service could ask. The reader of its consumers asks first."""
        older.without(topology.USER_INFO)
        bus = older.bus("vault")
        with pytest.raises(Unavailable, match="does not answer which subjects vault_reader may use"):
            await bus.connect()
        await bus.close()
        older.without()

    @pytest.mark.parametrize(
        ("changed", "to", "lack"),
        [
            (r', "_INBOX\.gateway\.auth\.>"', "", "does not permit auth to publish _INBOX.gateway.auth.>"),
            (r"(?<=\] \}) \}", ", allow_responses: true }", "permits auth to answer to any subject (allow_responses)"),
            (r", permissions: .* \}(?=,? *\})", "", "permits auth to publish and subscribe every subject"),
            (r"subscribe: \{ allow: \[[^]]*\] \}", 'subscribe: ">"', "permits auth to subscribe every subject"),
            (r"publish: \{ allow: \[[^]]*\] \}", 'publish: ">"', "permits auth to publish every subject"),
        ],
        ids=["no answers", "answers to all", "no permissions", "subscribe all", "publish all"],
    )
    async def test_a_credential_with_other_rights_is_not_ready(
        self, older: Older, changed: str, to: str, lack: str
    ) -> None:
        """F1: it could read everything, and was ready."""
        older.other("auth", lambda line: re.sub(changed, to, line))
        bus = older.bus("auth")
        with pytest.raises(Unavailable, match=re.escape(lack)):
            await bus.connect()
        await bus.close()
        older.without()

    @pytest.mark.parametrize("service", ["auth", "audit"])
    async def test_a_connection_whose_credential_was_taken_away_ends_for_good(self, older: Older, service: str) -> None:
        """F1: the library connects no more, so the process has to end, or it were never ready again."""
        older.without()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WATCH, service, env=older.environ(service), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(3 * PATIENCE):
            assert await process.stdout.readline() == b"connected\n"
            older.other(service, lambda _: "")
            assert await process.stdout.readline() == b"ended\n"
            await process.wait()
        older.without()

    async def test_a_credential_in_another_account_is_not_ready(self, older: Older) -> None:
        """F1: nobody reaches it there, and it was ready."""
        older.elsewhere("auth")
        bus = older.bus("auth")
        with pytest.raises(Unavailable, match="has auth in the account ELSEWHERE, not in SERVICES"):
            await bus.connect()
        await bus.close()
        older.without()

    @pytest.mark.parametrize(
        ("pattern", "subject", "expected"),
        [
            ("a.b", "a.b", True),
            ("a.*", "a.b", True),
            ("a.>", "a.b.c", True),
            (">", "a.*.>", True),
            ("a.>", "a", False),
            ("a.*", "a.>", False),
            ("a.b", "a.*", False),
            ("a.*.c", "a.b", False),
            ("a", "a.b", False),
        ],
    )
    def test_a_pattern_covers_a_narrower_one(self, pattern: str, subject: str, expected: bool) -> None:
        assert _covers(pattern, subject) is expected


async def _ignore(_: object) -> None:
    pass
