"""How many exchanges with one host run at once."""

import asyncio
from weakref import WeakValueDictionary


class Places:
    """A bound per host and port; a host that nobody talks to takes no memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts: WeakValueDictionary[tuple[str, int], asyncio.Semaphore] = WeakValueDictionary()

    def at(self, host: str, port: int) -> asyncio.Semaphore:
        """The places at a host; keep it for as long as one is taken."""
        place = self._hosts.get((host, port))
        if place is None:
            place = self._hosts[host, port] = asyncio.Semaphore(self._most)
        return place
