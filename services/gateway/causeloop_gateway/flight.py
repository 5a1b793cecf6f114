"""The bytes of bodies in flight: read, and not yet answered. Bounded for each sender, and for the process.

A body is in memory several times until its answer leaves: as it came, as JSON, sealed, on its way over the bus. And
everything else waits behind it there, the signs of life between bus and services too.

A part of the process's bytes is for small bodies. Of the rest, a sender has at most half of what is free. So a few who
send much, or one in many workspaces, keep nobody else from sending little.
"""

from causeloop_common.errors import RateLimited, Unavailable

SENDER_BYTES = 4 * 1024 * 1024
"""Of one tenant, or of one address where nobody is signed in."""
PROCESS_BYTES = 16 * 1024 * 1024
SMALL_BYTES = 16 * 1024
"""Of one sender, from which on they are not small any more."""
RESERVED_BYTES = 4 * 1024 * 1024
"""Of the process's, for those who send little."""


class Flight:
    """The bytes in flight of a process."""

    def __init__(self) -> None:
        self.total = 0
        self._of_senders: dict[str, int] = {}

    def take(self, sender: str, size: int) -> None:
        """Count bytes that arrived; RateLimited or Unavailable when they are too many, and then they do not count."""
        of_sender = self._of_senders.get(sender, 0) + size
        if of_sender > SENDER_BYTES:
            raise RateLimited(
                f"More than {SENDER_BYTES} bytes of yours are being worked on. Send less at once, or try again.",
                retry_after=1,
            )
        free = PROCESS_BYTES - self.total
        if size > free or (of_sender > SMALL_BYTES and of_sender > (free - RESERVED_BYTES) // 2):
            raise Unavailable("The gateway has as much to do as fits. Nothing was done; try again.")
        self.total += size
        self._of_senders[sender] = of_sender

    def give_back(self, sender: str, size: int) -> None:
        """Count bytes no longer, whose request was answered."""
        self.total -= size
        left = self._of_senders[sender] - size
        if left:
            self._of_senders[sender] = left
        else:
            del self._of_senders[sender]


class Load:
    """The bytes of one request, counted from their arrival until it is answered."""

    __slots__ = ("_flight", "_sender", "_size")

    def __init__(self, flight: Flight, sender: str) -> None:
        self._flight = flight
        self._sender = sender
        self._size = 0

    def take(self, size: int) -> None:
        """Count bytes that arrived, as `Flight.take` does."""
        if size:
            self._flight.take(self._sender, size)
            self._size += size

    def give_back(self) -> None:
        """Count them no longer."""
        if self._size:
            self._flight.give_back(self._sender, self._size)
