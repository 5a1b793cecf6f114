"""The wire of `python -m chaos.receipts`: it passes on byte by byte, and has its way with what goes to the log."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chaos.receipts import frames
from chaos.receipts.wire import CALM, Weather, Wire

HEADERS = b"NATS/1.0\r\nce-id: evt_1\r\n\r\n"
SIZED = (len(HEADERS), len(HEADERS) + 2, HEADERS)
ASKED = (
    b'CONNECT {"name":"causeloop-vault"}\r\n',
    b"PING\r\n",
    b"SUB _INBOX.vault.x.*.* 7\r\n",
    b"PUB cmd.auth.authenticate _INBOX.vault.y.1 2\r\n{}\r\n",
    b"HPUB evt.ws_1.vault.secret_written _INBOX.vault.x.1.0 %d %d\r\n%s{}\r\n" % SIZED,
    b"PUB $JS.ACK.EVENTS.audit_intake.1.1.1.1.0 0\r\n\r\n",
    b"PUB wake.v\xff 4\r\n\r\n\r\n\r\n",
)  # fmt: skip
ANSWERED = (
    b'INFO {"max_payload":4194304}\r\n',
    b"+OK\r\n",
    b"MSG _INBOX.vault.y.1 3 2\r\n{}\r\n",
    b'MSG _INBOX.vault.x.1.0 7 9\r\n{"seq":1}\r\n',
    b"HMSG evt.0.ws_1.vault.secret_written 2 $JS.ACK.EVENTS.a.1.1.1.1.0 %d %d\r\n%s{}\r\n" % SIZED,
)


async def read_all(*parts: bytes) -> list[frames.Frame]:
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(parts))
    reader.feed_eof()
    return [await frames.read(reader) for _ in parts]


class TestFrames:
    async def test_are_the_bytes_that_came(self) -> None:
        for given in (ASKED, ANSWERED):
            assert tuple(frame.data for frame in await read_all(*given)) == given

    async def test_have_subject_reply_and_headers(self) -> None:
        *_, published, acknowledged, odd = await read_all(*ASKED)
        assert (published.subject, published.reply) == (b"evt.ws_1.vault.secret_written", b"_INBOX.vault.x.1.0")
        assert published.header(b"ce-id") == b"evt_1"
        assert (acknowledged.subject, acknowledged.reply) == (b"$JS.ACK.EVENTS.audit_intake.1.1.1.1.0", b"")
        assert odd.subject == b"wake.v\xff"
        delivered = (await read_all(*ANSWERED))[-1]
        assert (delivered.subject, delivered.reply) == (
            b"evt.0.ws_1.vault.secret_written",
            b"$JS.ACK.EVENTS.a.1.1.1.1.0",
        )


class Ends:
    """Both ends of a wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.connected.put((reader, writer))

    async def pass_on(self) -> tuple[bytes, bytes]:
        """What arrives of `ASKED` and then of `ANSWERED`, each up to a last frame that always passes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.wire.port)
        writer.write(b"".join(ASKED) + b"PONG\r\n")
        there, thither = await self.connected.get()
        asked = await there.readuntil(b"PONG\r\n")
        thither.write(b"".join(ANSWERED) + b"PONG\r\n")
        answered = await reader.readuntil(b"PONG\r\n")
        for end in (writer, thither):
            end.close()
            await end.wait_closed()
        return asked.removesuffix(b"PONG\r\n"), answered.removesuffix(b"PONG\r\n")


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    async with Wire(random.Random(1)) as wire:
        both = Ends(wire)
        server = await asyncio.start_server(both.accept, "127.0.0.1", 0)
        wire.aim(lambda: int(server.sockets[0].getsockname()[1]))
        yield both
        server.close()


class TestAWire:
    async def test_passes_on_everything_in_calm_weather(self) -> None:
        async with ends() as both:
            assert await both.pass_on() == (b"".join(ASKED), b"".join(ANSWERED))
            assert both.wire.weather is CALM
            assert both.wire.published == {b"evt_1": 1}

    @pytest.mark.parametrize(
        ("weather", "times"), [(Weather(drop=1), 0), (Weather(double=1, longest=0), 2), (Weather(delay=1), 0)]
    )
    async def test_has_its_way_with_events_and_their_acknowledgements_alone(self, weather: Weather, times: int) -> None:
        async with ends() as both:
            both.wire.weather = {"event": weather, "stored": weather}
            asked = b"".join(frame * (times if b"HPUB" in frame else 1) for frame in ASKED)
            answered = b"".join(frame * (times if b"vault.x" in frame else 1) for frame in ANSWERED)
            assert await both.pass_on() == (asked, answered)

    async def test_withholds_a_kind(self) -> None:
        async with ends() as both:
            with both.wire.withholding("delivery"), both.wire.withholding("acknowledgement"):
                asked = b"".join(frame for frame in ASKED if b"$JS.ACK" not in frame)
                answered = b"".join(frame for frame in ANSWERED if b"$JS.ACK" not in frame)
                assert await both.pass_on() == (asked, answered)
            assert await both.pass_on() == (b"".join(ASKED), b"".join(ANSWERED))

    async def test_cuts_a_reader_in_a_storm_and_nobody_else(self) -> None:
        async with ends() as both:
            wire = both.wire
            wire.storm = True
            assert not wire.is_cut("causeloop-audit_reader", 0)
            wire.cutting = True
            assert wire.is_cut("causeloop-audit_reader", 0)
            assert not wire.is_cut("causeloop-audit", 0)
