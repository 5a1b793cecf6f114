"""The vault's memory: keys in clear, kept for a while, so that not every use reads the database."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

REMEMBERED_SECONDS = 300.0
"""Counted from when it was read; use does not prolong it."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """At most `size` things, none for longer than five minutes; the one not used for longest goes first."""

    def __init__(self, size: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._monotonic = monotonic
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The remembered value, if it is not too old."""
        found = self._kept.get(key)
        if found is None:
            return None
        value, until = found
        if self._monotonic() >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def keep(self, key: K, value: V) -> None:
        """Remember from now on."""
        self._kept[key] = (value, self._monotonic() + REMEMBERED_SECONDS)
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def forget(self, key: K) -> None:
        """Remember no longer."""
        self._kept.pop(key, None)
