"""What a service sends reaches the streams, or doctor names the way that was cut."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from causeloop_cli import streams
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_common.contracts import topology
from causeloop_common.errors import Unavailable
from causeloop_common.messaging import Bus, reach
from causeloop_common.settings import Settings
from causeloop_dev.installation import Installation

PATIENCE = 10.0
INTAKE = topology.AUDIT_INTAKE
ACKNOWLEDGED = f"$JS.ACK.{INTAKE.stream}.{INTAKE.name}"
PULLED = f"CONSUMER.MSG.NEXT.{INTAKE.stream}.{INTAKE.name}"


class Cut:
    """A server with our configuration, from whose accounts a test takes imports."""

    def __init__(self, folder: Path, janitor: Janitor) -> None:
        self.installation = Installation.new()
        self.server = EmbeddedNats(self.installation.nats_config(), folder, janitor=janitor)
        self.server.start()
        self._path = folder / "nats.conf"
        self._text = self._path.read_text()

    def without(self, subject: str) -> None:
        """Take the import of a subject away."""
        lines = self._text.splitlines()
        left = [line for line in lines if f'subject: "{subject}" }}, to:' not in line]
        assert len(left) == len(lines) - bool(subject), subject
        self._path.write_text("\n".join(left))
        read = self._reloads()
        os.kill(self.server.pid, signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while self._reloads() == read:
            assert time.monotonic() < deadline, self.server.log.read_text()[-1000:]
            time.sleep(0.01)

    def bus(self, service: str) -> Bus:
        environ = self.installation.environ(service, "postgresql://127.0.0.1/none", self.server.url)
        settings = Settings.load(service, environ)
        return Bus(settings, settings.keyring())

    def _reloads(self) -> int:
        return self.server.log.read_text().count("Reloaded server configuration")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cut]:
    with Janitor() as janitor:
        made = Cut(tmp_path_factory.mktemp("nats"), janitor)
        yield made
        made.server.stop()


@pytest.fixture(autouse=True)
async def whole(cut: Cut) -> None:
    cut.without("")
    await streams.declare(cut.server.url, cut.installation.seeds[topology.OPERATOR])


async def finding(bus: Bus) -> str:
    """The sentence of the examination; '' if all is well."""
    await bus.connect()
    try:
        await reach.examine(bus)
    except Unavailable as error:
        return error.detail
    finally:
        await bus.close()
    return ""


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_every_way_is_open(cut: Cut, service: str) -> None:
    assert await finding(cut.bus(service)) == ""


@pytest.mark.parametrize(
    ("subject", "named"),
    [
        ("evt.>", r"evt\.usr_\w{26}\.audit\.none"),
        ("dead.>", r"dead\.audit\.none\.0"),
        (f"$JS.API.{PULLED}", re.escape(f"{topology.STREAMS_API}.{PULLED}")),
        (f"{ACKNOWLEDGED}.>", re.escape(ACKNOWLEDGED)),
    ],
)
async def test_a_way_that_was_cut_is_named(cut: Cut, subject: str, named: str) -> None:
    """P5: without an import what is sent is lost, and doctor was green: it looked at permissions alone."""
    cut.without(subject)

    found = await finding(cut.bus("audit"))

    assert re.match(rf"NATS passes on nothing that it sends to {named}[.\d]*: the accounts in", found), found


async def test_nothing_is_left_of_the_examination(cut: Cut) -> None:
    """P5: no message is stored, delivered or acknowledged by it."""
    operator = await streams.connect(cut.server.url, topology.OPERATOR, cut.installation.seeds[topology.OPERATOR])
    try:
        stream = operator.jetstream()
        before = await stream.streams_info(), await stream.consumer_info(INTAKE.stream, INTAKE.name)
        assert await finding(cut.bus("audit")) == ""
        after = await stream.streams_info(), await stream.consumer_info(INTAKE.stream, INTAKE.name)
    finally:
        await operator.close()

    assert [one.state.messages for one in before[0]] == [one.state.messages for one in after[0]] == [0, 0]
    assert before[1].delivered == after[1].delivered
    assert (before[1].num_ack_pending, before[1].ack_floor) == (after[1].num_ack_pending, after[1].ack_floor)
