"""The wire of a connection: statements that travel in one flight with what asyncpg sends next.

    BEGIN · SET LOCAL · held statements · a statement · COMMIT · Sync ──►     one write and one answer

asyncpg sends one statement at a time and waits for its answer. A `Wire` stands between it and the socket. It puts an
*opening* and *held* statements in front of what asyncpg writes next, and an *ending* between that statement and its
Sync. None of these has rows. The server runs what stands before a Sync in order, and skips the rest after an error. So
no statement runs without its opening, and no ending without its statement. There is one error and one ReadyForQuery, as
asyncpg expects: nothing is taken out of an answer, and none can reach another statement.

An ending travels, and a statement is held, only if the connection has prepared the statement before, so that asyncpg
writes it at once (Bind, Execute, Sync). Otherwise something of asyncpg's own goes first, and all else follows as ever:
the statement is not held, and the ending is dropped. Look at `has_ended`, and send it by itself.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from struct import pack
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

_SYNC = b"S\0\0\0\4"
_BIND_EXECUTE = b"B\0\0\0\x0c\0\0\0\0\0\0\0\0" + b"E\0\0\0\x09\0\0\0\0\0"
_BIND, _QUERY, _PARSE, _TERMINATE = b"BQPX"
_DONE, _ERROR = b"CE"
_HELD = b"2\0\0\0\x04" + b"C\0\0\0\x09HELD\0" + b"Z\0\0\0\x05T"
"""BindComplete, CommandComplete and ReadyForQuery, in a transaction."""
_WRITES = (b"INSERT", b"UPDATE", b"DELETE")


def batch(*statements: str) -> bytes:
    """Statements without parameters and rows as an opening or ending: Parse, Bind and Execute of each, no Sync."""
    return b"".join(
        pack("!ci", b"P", len(text) + 8) + b"\0" + text + b"\0\0\0" + _BIND_EXECUTE
        for text in (statement.encode() for statement in statements)
    )


COMMIT = batch("COMMIT")


class Wire(asyncio.Protocol, asyncio.Transport):
    """To asyncpg the transport, to the transport the protocol."""

    __slots__ = ("_answers", "_ending", "_held", "_holds", "_opening", "_protocol", "has_ended", "transport")

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.transport: Any = None
        self._opening: bytes | None = None
        self._held: list[bytes] = []
        self._holds = False
        self._ending: bytes | None = None
        self.has_ended = False
        """Whether the ending travelled with its statement."""
        self._answers: list[bytes] | None = None

    def open(self, opening: bytes) -> None:
        """Send the opening in front of the next statement."""
        self._opening = opening

    def hold(self) -> None:
        """Keep the next statement back, and send it in front of the one after it. It must have no rows.

        asyncpg is answered at once, in the server's place. A refusal reaches the statement that it is sent with.
        """
        self._holds = True

    def end(self, ending: bytes) -> None:
        """Send the ending behind the next statement, if that is possible: look at `has_ended` when it is answered."""
        self._ending = ending
        self.has_ended = False

    def keep(self) -> None:
        """Keep what is answered from now on, for `refused_at`."""
        self._answers = []

    def clear(self) -> bool:
        """Send nothing with what follows, and forget what was answered. True if the opening had not been sent yet."""
        is_unsent = self._opening is not None
        self._opening = self._ending = self._answers = None
        self._held.clear()
        self._holds = self.has_ended = False
        return is_unsent

    @property
    def refused_at(self) -> int | None:
        """How many writes the server had done when it refused something; None if it refused nothing."""
        done = 0
        for kind, body in _messages(b"".join(self._answers or ())):
            if kind == _ERROR:
                return done
            done += kind == _DONE and body.startswith(_WRITES)
        return None

    def write(self, data: Any) -> None:
        """Write what asyncpg sends, with what is to travel with it."""
        if self._opening is None and self._ending is None and not self._holds and not self._held:
            self.transport.write(data)
        elif not self._is_held(data):
            self.transport.write(self._joined(data))

    def writelines(self, buffers: Iterable[Any]) -> None:
        """Write the pieces of one message."""
        self.write(b"".join(buffers))

    def _is_held(self, data: Any) -> bool:
        """Hold a statement, if one is to be held and this is one."""
        holds, self._holds = self._holds, False
        if not holds or data[0] != _BIND or data[-5:] != _SYNC:
            return False
        self._held.append(bytes(data[:-5]))
        asyncio.get_running_loop().call_soon(self._pretend)
        return True

    def _pretend(self) -> None:
        """Answer for the server that a held statement is done."""
        if not self.transport.is_closing():
            self._protocol.data_received(_HELD)

    def _joined(self, data: Any) -> Any:
        """A message of asyncpg with opening, held statements and ending."""
        kind = data[0]
        if kind == _TERMINATE:
            return data
        opening, self._opening = self._opening, None
        ending, self._ending = self._ending, None
        if ending is not None and kind == _BIND and data[-5:] == _SYNC:
            data = b"".join((data[:-5], ending, _SYNC))
            self.has_ended = True
        if kind == _QUERY:  # a simple query has no part in a batch, but runs several statements up to an error
            return data if opening is None else _query("; ".join((*_texts(opening), bytes(data[5:-1]).decode())))
        held, self._held = self._held, []
        return b"".join((opening or b"", *held, data))

    def data_received(self, data: bytes) -> None:
        """Pass an answer on."""
        if self._answers is not None:
            self._answers.append(data)
        self._protocol.data_received(data)

    def connection_made(self, transport: Any) -> None:
        """Have asyncpg begin."""
        self.transport = transport
        self._protocol.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on."""
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Pass the end of the answers on."""
        return self._protocol.eof_received()  # type: ignore[no-any-return]

    def pause_writing(self) -> None:
        """Have asyncpg wait: the socket takes no more."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Have asyncpg go on."""
        self._protocol.resume_writing()

    def set_protocol(self, protocol: Any) -> None:
        """Serve another protocol of asyncpg's: after TLS has begun."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """Asyncpg's protocol."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """A fact of the transport's socket."""
        return self.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self.transport.is_closing()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close when all is written."""
        self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self.transport.resume_reading()


class Connection(_Connection):
    """asyncpg's connection, with its wire."""

    __slots__ = ("wire",)

    def __init__(self, protocol: Any, wire: Wire, loop: "_Loop", *rest: Any) -> None:
        super().__init__(protocol, wire, loop.loop, *rest)
        self.wire = wire


async def connect(**arguments: Any) -> Connection:
    """`asyncpg.connect`, on a wire."""
    loop: Any = _Loop(asyncio.get_running_loop())
    made: Any = await asyncpg.connect(loop=loop, connection_class=Connection, **arguments)
    return made  # type: ignore[no-any-return]


class _Loop:
    """The running event loop, but it puts a wire on each connection that it makes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    async def create_connection(self, factory: Callable[[], Any], *address: Any, **options: Any) -> tuple[Wire, Any]:
        _, wire = await self.loop.create_connection(lambda: Wire(factory()), *address, **options)
        return wire, wire.get_protocol()

    async def create_unix_connection(self, factory: Callable[[], Any], path: str) -> tuple[Wire, Any]:
        _, wire = await self.loop.create_unix_connection(lambda: Wire(factory()), path)
        return wire, wire.get_protocol()

    async def start_tls(self, wire: Wire, _: Any, context: Any, **options: Any) -> Wire | None:
        transport = await self.loop.start_tls(wire.transport, wire, context, **options)
        if transport is None:
            return None
        wire.transport = transport
        return wire


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one direction: type and body of each."""
    at = 0
    while at < len(data):
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        yield data[at], data[at + 5 : end]
        at = end


def _texts(opening: bytes) -> Iterator[str]:
    """The statements of a batch."""
    for kind, body in _messages(opening):
        if kind == _PARSE:
            yield body[1:-3].decode()


def _query(text: str) -> bytes:
    body = text.encode() + b"\0"
    return pack("!ci", b"Q", len(body) + 4) + body
