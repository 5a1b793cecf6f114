"""A wire that can be cut: a TCP proxy on the loopback between a process and a server.

proxy.silence()    nothing passes any more, and no connection ends: a cable pulled, a host gone
proxy.strand()     so it is for the connections there are; new ones pass, as after a failover
proxy.drop()       connections are closed and new ones too
proxy.mend()       whatever waited passes, new connections are served
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Listening:
    """Listens on `port` of the loopback. Each connection is a task, which ends with the block at the latest."""

    limit = 2**16
    """The bytes of a reader's longest line."""

    def __init__(self) -> None:
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=self.limit)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self.end()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        raise NotImplementedError

    async def end(self) -> None:
        """End every connection."""
        ending = list(self._links)
        for link in ending:
            link.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.create_task(self.serve(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)


class Proxy(Listening):
    """Passes on what it is given, until one of its switches is used."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._target = port
        self._passing = asyncio.Event()
        self._passing.set()
        self._dropping = False

    def silence(self) -> None:
        self._passing.clear()

    def strand(self) -> None:
        """Leave every connection there is silent for ever."""
        self.silence()
        self._passing = asyncio.Event()
        self._passing.set()

    async def drop(self) -> None:
        self._dropping = True
        await self.end()

    def mend(self) -> None:
        self._dropping = False
        self._passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on, in both directions."""
        if self._dropping:
            writer.transport.abort()
            return
        passing = self._passing
        directions: set[asyncio.Task[None]] = set()
        try:
            await passing.wait()
            there, thither = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                for source, sink in ((reader, thither), (there, writer)):
                    directions.add(asyncio.create_task(_pass_on(source, sink, passing)))
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                thither.transport.abort()
        except OSError:
            pass  # the server is away: so is this connection
        finally:
            for direction in directions:
                direction.cancel()
            writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event) -> None:
    """One direction, until either side ends."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            await passing.wait()
            writer.write(data)
            await writer.drain()
