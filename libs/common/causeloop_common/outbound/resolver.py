"""Names to addresses by the system's resolver, off the loop, on a few threads that nothing waits for.

The system's resolver blocks for as long as it likes. Each asker has a bound of its own (cancel the call), each client a
resolver of its own, so that names which do not resolve delay nobody else's, and the threads are daemons, so that none
keeps a process from ending.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Lookup = Callable[[str], list[str]]
"""The addresses of a name, in order of preference; blocks, and raises OSError when there are none."""

_THREADS = 4


def system_lookup(name: str) -> list[str]:
    """The system's answer, best address first (RFC 6724)."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class Resolver:
    """Looks names up, at most four at once."""

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._free = asyncio.Semaphore(_THREADS)

    async def resolve(self, name: str) -> list[str]:
        """The addresses of a name, best first; OSError when there are none."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def finish(addresses: list[str], error: Exception | None) -> None:
            self._free.release()  # only now: a thread whose asker gave up is still at work
            if found.cancelled():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def look() -> None:
            addresses: list[str] = []
            failure: Exception | None = None
            try:
                addresses = self._lookup(name)
            except Exception as error:  # noqa: BLE001  it is raised where the name was asked for
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(finish, addresses, failure)

        threading.Thread(target=look, name="causeloop-names", daemon=True).start()
        return await found
