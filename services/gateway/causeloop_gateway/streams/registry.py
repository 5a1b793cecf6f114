"""The open streams: their number is bounded, new entries wake them, and a stop or a lost bus ends them all.

Each is found by its tenant, its principal and its credential. The gateway subscribes `head.<tenant>` only for tenants
with a stream open, once each, however many follow.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.audit import ReadStream, StreamPage
from causeloop_common.errors import RateLimited, Unavailable
from causeloop_common.memory import Memories, of_person
from causeloop_common.messaging import Bus
from causeloop_common.telemetry import metrics
from causeloop_gateway.streams.stream import Stream

OF_PRINCIPAL = 10
"""Open streams of one person or service account, in this process."""

OF_WORKSPACE = 100
"""Open streams of one workspace, in this process, so that none takes all the places."""

OF_PROCESS = 1000
"""Open streams of this process: some 20 KB each while it waits, at most 0.4 MB while its client does not read."""

READS = 8
"""Pages that are read at once. A thousand streams that catch up wait for one another, so that audit's queue has room
for others and refuses none of them."""

RETRY_AFTER_SECONDS = 30


class Streams:
    """The open streams of this process."""

    def __init__(self, bus: Bus, memories: Memories) -> None:
        self._bus = bus
        self._open: set[Stream] = set()
        self._found: dict[str, set[Stream]] = {}
        self._heads: dict[str, Subscription] = {}
        self._reading = asyncio.Semaphore(READS)
        self._stopping = False
        bus.on_disconnect.append(self._lost)
        memories.on_forget.append(self._doubt)

    @asynccontextmanager
    async def opened(self, stream: Stream) -> AsyncIterator[None]:
        """Count a stream and wake it, for as long as the block runs; RateLimited when there are too many."""
        self._admit(stream)
        tenant = stream.identity.tenant
        try:
            if tenant not in self._heads:
                await self._subscribe(tenant)
            yield
        finally:
            self._forget(stream)
            if tenant not in self._found and (subscription := self._heads.pop(tenant, None)) is not None:
                with suppress(nats.errors.Error, OSError):  # the connection is gone, and it with it
                    await subscription.unsubscribe()

    async def read(self, ctx: AuthContext, question: ReadStream) -> StreamPage:
        """A page of the log, read in turn."""
        async with self._reading:
            return await self._bus.call(ctx, question)

    def stop(self) -> None:
        """End every stream and take no more, since the process stops."""
        self._stopping = True
        self._end(Unavailable("The gateway is stopping. Connect again with the last id to go on."))

    def _lost(self) -> None:
        self._end(Unavailable("The message bus cannot be reached. Connect again with the last id to go on."))

    def _end(self, error: Unavailable) -> None:
        for stream in self._open:
            stream.end(error)

    def _doubt(self, tag: str) -> None:
        for stream in self._found.get(tag, ()):
            stream.doubt()

    async def _subscribe(self, tenant: str) -> None:
        async def on_head(message: Msg) -> None:
            size = int(message.data) if message.data.isdigit() else 0
            for stream in self._found.get(tenant, ()):
                stream.grew(size)

        subscription = await self._bus.subscribe(topology.head(tenant), on_head)
        if self._heads.setdefault(tenant, subscription) is not subscription:  # two came at once
            await subscription.unsubscribe()

    def _admit(self, stream: Stream) -> None:
        if self._stopping:
            raise Unavailable("The gateway is stopping. Connect again.")
        identity = stream.identity
        for keys, most, whose in (
            (self._found.get(identity.principal, ()), OF_PRINCIPAL, "of yours"),
            (self._found.get(identity.tenant, ()), OF_WORKSPACE, "of this workspace"),
            (self._open, OF_PROCESS, "of this gateway"),
        ):
            if len(keys) >= most:
                raise RateLimited(
                    f"{most} streams {whose} are open, and no more may be. Close one, or try again later.",
                    retry_after=RETRY_AFTER_SECONDS,
                )
        self._open.add(stream)
        for key in _keys(stream):
            self._found.setdefault(key, set()).add(stream)
        metrics.STREAMS.set(len(self._open))

    def _forget(self, stream: Stream) -> None:
        self._open.discard(stream)
        for key in _keys(stream):
            self._found[key].discard(stream)
            if not self._found[key]:
                del self._found[key]
        metrics.STREAMS.set(len(self._open))


def _keys(stream: Stream) -> set[str]:
    """The tags of what is remembered of its caller."""
    identity = stream.identity
    return {identity.tenant, identity.principal, identity.credential, of_person(identity.tenant, identity.principal)}
