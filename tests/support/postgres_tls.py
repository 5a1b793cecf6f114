"""TLS before the tests' PostgreSQL, whose build has none: answers the start of a session as a server with TLS does.

async with front(socket, authority.server("localhost")) as fronted:
    fronted.port         where it listens, on the loopback
    fronted.encrypted    how many sessions came with TLS, fronted.plain how many without
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


@dataclass
class Front:
    """What came to it."""

    port: int = 0
    encrypted: int = 0
    plain: int = 0


@asynccontextmanager
async def front(server: Path, tls: ssl.SSLContext | None) -> AsyncIterator[Front]:
    """Pass sessions on to the socket of a server; without `tls` a client is answered that there is none."""
    made, running = Front(), set[asyncio.Task[None]]()

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        with suppress(OSError, EOFError, asyncio.CancelledError):  # asyncio logs a cancelled session as a fault
            head = await reader.readexactly(8)
            if head == _SSL_REQUEST:
                writer.write(b"N" if tls is None else b"S")
                await writer.drain()
                if tls is not None:
                    await writer.start_tls(tls)
                    made.encrypted += 1
                head = await reader.readexactly(8)
            if writer.get_extra_info("ssl_object") is None:
                made.plain += 1
            inner_reader, inner_writer = await asyncio.open_unix_connection(server)
            inner_writer.write(head)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        writer.transport.abort()
        running.discard(task)

    listening = await asyncio.start_server(session, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0.01)  # for aborted transports to close


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
