"""How full the streams are: a full one refuses every service's events, until it is purged or they are too old."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

import nats.errors
import nats.js.errors
from nats.js.api import StreamInfo

from causeloop_common.contracts import topology
from causeloop_common.errors import AppError
from causeloop_common.messaging.bus import Bus
from causeloop_common.telemetry import metrics

_log = logging.getLogger(__name__)

ALARM = 0.7
"""The part of a stream's space from which on its use is an alarm."""
_LOOK_SECONDS = 15.0


def used(infos: Iterable[StreamInfo]) -> dict[str, float]:
    """By name, the part of its space that each stream uses."""
    limits = {stream.name: stream.max_bytes for stream in topology.STREAMS}
    states = {str(info.config.name): info.state.bytes for info in infos}
    return {name: states[name] / limit for name, limit in limits.items() if name in states}


def lack(part: float) -> str | None:
    """The sentence about a stream that uses this part of its space; None while that is no alarm."""
    if part < ALARM:
        return None
    return (
        f"It is {part:.0%} full, and refuses everything when it is full: `causeloop events purge` removes what all its "
        "consumers have had; find the service that publishes so much."
    )


class Space:
    """Looks how full the streams are."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._alarmed: set[str] = set()

    async def watch(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            with suppress(AppError, nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):
                await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Measure each stream, and log once that one fills up."""
        for name, part in used(await self._bus.jetstream().streams_info()).items():
            metrics.STREAM_USED.labels(name).set(part)
            sentence = lack(part)
            if sentence is None:
                self._alarmed.discard(name)
            elif name not in self._alarmed:
                self._alarmed.add(name)
                _log.error("stream %s: %s", name, sentence)
