"""How long events gather before the next batch: not at all while few come, longer the more come.

A batch costs the same whatever it has, in statements and messages. While few events come each is on its way at once;
under load few large batches do the work of many small ones, and nothing waits for longer than a tenth of a second.
"""

import math
import time
from collections.abc import Callable

_REMEMBERED_SECONDS = 0.5
"""The load is that of about so long."""
_SECONDS_EACH = 50e-6
"""The pause for each event a second: 50 ms, and so 50 events, at 1000 events a second."""
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.005, 0.1
"""A shorter pause is none: up to 100 events a second each leaves at once."""


class Linger:
    """The pause after each batch, by how many events came of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._rate = 0.0

    def after(self, events: int) -> float:
        """The seconds for which the next events may gather, after a batch of so many."""
        now = self._clock()
        self._rate = self._rate * math.exp((self._at - now) / _REMEMBERED_SECONDS) + events / _REMEMBERED_SECONDS
        self._at = now
        pause = min(self._rate * _SECONDS_EACH, _LONGEST_SECONDS)
        return pause if pause >= _SHORTEST_SECONDS else 0.0
