"""Use cases of the log: appending events, and reading them."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import orjson

from causeloop_audit import repository
from causeloop_audit.domain.entries import Unreadable, digest_of_message, identity, new_entry, unreadable
from causeloop_audit.domain.position import Position, again_from
from causeloop_audit.domain.terms import Terms, new_term
from causeloop_audit.repository import (
    Appended,
    HeldEvent,
    HeldMessage,
    Identity,
    LogWriter,
    NotStorable,
    Stored,
    StoredEntry,
)
from causeloop_audit.service.damage import data_of, not_continued, require_unchanged
from causeloop_audit.service.readers import Readers
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import (
    WAIT_SECONDS,
    EventPage,
    EventView,
    GetEvent,
    ListEvents,
    ReadStream,
    StreamEntry,
    StreamPage,
)
from causeloop_common.contracts.lists import page
from causeloop_common.database import Database, Reading
from causeloop_common.errors import Conflict, InvalidInput, NotFound
from causeloop_common.messaging import StreamEnds, aside, read_event
from causeloop_common.telemetry import metrics
from causeloop_log.entry import MALFORMED

_log = logging.getLogger(__name__)

_AT_ONCE = 1000
_BYTES_AT_ONCE = 8 * 1024 * 1024
"""Of what is held, in one part: other tenants' events wait for no more. A batch that comes is smaller, so that it ends.
"""


class LogService:
    """One append-only log per tenant. An entry whose event brings no salt gets one that is made with `salt_key`.

    `readers` notes the logs that are read.
    """

    def __init__(self, database: Database, writer: LogWriter, salt_key: bytes, readers: Readers) -> None:
        self._database = database
        self._writer = writer
        self._salt_key = salt_key
        self._readers = readers
        self._held: set[str] = set()
        """The tenants whose events are held."""
        self._still: set[UUID] = set()
        """The logs that were found to be damaged in this round of looks."""
        self._mended: set[UUID] = set()
        """The logs that are entered until nothing of them is held, however young it is."""
        self._turn = 0
        self._alarmed: set[UUID] = set()
        """The logs of which it was logged that they cannot be appended to: once until they can."""

    async def begin_term(self) -> Terms:
        """Begin a term of the intake; the terms up to it."""
        return await self._writer.begin_term(new_term())

    async def again_from(self, stream: StreamEnds, floor: int) -> tuple[int | None, int]:
        """The number from which the stream is to be entered again, since the database is older than what was
        acknowledged, up to `floor`, or None where it is not; and that up to which it is entered again, by this intake
        or an earlier one, or 0 where that is done.
        """
        positions = self._writer.positions
        position = await positions.read()
        begin = again_from(position, stream=stream.created, first=stream.first, last=stream.last, floor=floor)
        if begin is not None:
            position = Position(stream.created, begin - 1, floor)
            await positions.keep(position)
        elif position.stream != stream.created:
            position = Position(stream.created, floor)
            await positions.keep(position)
        return begin, position.again_to if position.number < position.again_to else 0

    async def end_again(self) -> None:
        """Note that the stream has no more that is to be entered again."""
        await self._writer.positions.end_again()

    async def append(self, batch: Sequence[Announced | Unreadable], *, position: int | None = None) -> Appended:
        """Append a batch in its order, each event once. A message that cannot be read is entered as malformed.

        `position` is the number in the stream of the batch's last message. It is kept with the last commit of the
        batch, so that everything up to it is entered or held.

        The events of a log that cannot be appended to are held until it can be; they delay no other log. They are as
        durable as entries, so the answer has them among the known ones, and they are receipted.
        """
        ready = [message for message in batch if message.tenant not in self._held] if self._held else batch
        last = position if len(ready) == len(batch) else None
        try:
            appended = await self._append(ready, last) if ready else Appended([], {}, {})
        except NotStorable:
            appended, ready = await self._append_apart(ready)
            if len(ready) == len(batch):
                await self._writer.positions.advance(position)
        if len(ready) < len(batch):
            held = await self._hold([message for message in batch if message.tenant in self._held], position)
            appended = Appended.all([appended, held])
        _count(appended)
        return appended

    async def enter_held(self) -> tuple[Appended, bool]:
        """Append the next part of what is held of one log that can be appended to again; whether more can be.

        The logs take turns, so that none that is mended waits for another.
        """
        logs = await self._writer.held.logs()
        self._held = {ids.tenant_id(log) for log in logs}
        turn = [log for log, is_due in logs.items() if (is_due or log in self._mended) and log not in self._still]
        if not turn:
            self._still.clear()
            self._mended.clear()
            return Appended([], {}, {}), False
        appended = await self._enter_held(turn[self._turn % len(turn)])
        self._turn += 1
        _count(appended)
        return appended, True

    async def list_events(self, ctx: AuthContext, command: ListEvents) -> EventPage:
        """The tenant's log, cut at the page's size in entries and in bytes, and after the entries tried for it."""
        self._readers.note(ctx.tenant)
        if command.wait_for is not None and command.position is None:
            await self._wait(ctx, command.wait_for)
        newest = command.order == "newest"
        filters: dict[str, Any] = {
            "actor": command.actor,
            "action": command.action,
            "target": command.target,
            "since": command.since,
            "until": command.until,
            "before" if newest else "after": _index(command.position),
        }
        async with self._database.reading(ctx) as tx:
            found, tried = await repository.list_events(tx, newest=newest, limit=command.wanted, filters=filters)
        return page(
            found,
            command,
            key=lambda one: str(one.index),
            show=lambda one: _view(ctx, one),
            size=lambda one: len(one.leaf or ""),
            behind=None if tried is None else str(tried),
        )

    async def _wait(self, ctx: AuthContext, awaited: str) -> None:
        """Return once the log has an entry of this request or event, with this command's worker given to others."""
        until, pause = time.monotonic() + WAIT_SECONDS, 0.02
        async with aside():
            while True:
                async with self._database.reading(ctx) as tx:
                    if await repository.is_entered(tx, awaited):
                        return
                if time.monotonic() + pause > until:
                    raise no_entry_of(awaited)
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.25)

    async def get_event(self, ctx: AuthContext, command: GetEvent) -> EventView:
        """One entry of the tenant's log."""
        self._readers.note(ctx.tenant)
        async with self._database.reading(ctx) as tx:
            stored = await entry_of(tx, command.id)
        return _view(ctx, stored)

    async def read_stream(self, ctx: AuthContext, command: ReadStream) -> StreamPage:
        """The tenant's log from one place on, as it is stored."""
        self._readers.note(ctx.tenant)
        async with self._database.reading(ctx) as tx:
            found = await repository.read(tx, start=command.start, limit=command.limit, max_bytes=command.max_bytes)
        if found.refused is not None:
            raise not_continued(found.refused)
        for one in found.page:
            require_unchanged(ctx, one)
        page = [StreamEntry(index=one.index, leaf=one.leaf, leaf_hash=one.leaf_hash.hex()) for one in found.page]
        return StreamPage(epoch=found.epoch, entries=page, size=found.size)

    async def _append(self, batch: Sequence[Announced | Unreadable], position: int | None = None) -> Appended:
        logs = [ids.tenant_uuid(tenant) for tenant in {message.tenant for message in batch}]
        entries = (new_entry(message, self._salt_key) for message in batch)
        return await self._writer.append(logs, entries, position=position)

    async def _append_apart(
        self, batch: Sequence[Announced | Unreadable]
    ) -> tuple[Appended, Sequence[Announced | Unreadable]]:
        """Append log by log, after the batch was refused; what was appended, and the messages that need not be held."""
        parts = []
        for tenant in dict.fromkeys(message.tenant for message in batch):
            messages = [message for message in batch if message.tenant == tenant]
            try:
                parts.append(await self._append(messages))
            except NotStorable:
                try:
                    parts += [await self._append_alone(message) for message in messages]
                except NotStorable as error:
                    self._held.add(tenant)
                    metrics.LOGS_BROKEN.inc()
                    self._raise_alarm(ids.tenant_uuid(tenant), error)
        return Appended.all(parts), [message for message in batch if message.tenant not in self._held]

    async def _append_alone(self, message: Announced | Unreadable) -> Appended:
        try:
            return await self._append([message])
        except NotStorable:
            return await self._append([unreadable(message)])

    async def _hold(self, messages: Sequence[Announced | Unreadable], position: int | None) -> Appended:
        raw = [(identity(message), unreadable(message)) for message in messages]
        events = [
            HeldEvent(*event, one.subject, orjson.dumps(one.headers), one.data, one.came_at) for event, one in raw
        ]
        known: dict[Identity, Stored] = {}
        with suppress(NotStorable):  # entries that cannot be read are no reason to stop
            known = await self._writer.known([event for event, _ in raw])
        kept, batch = await self._writer.held.hold(events, position)
        metrics.HELD.inc(len(events))
        return Appended([], {}, {event[:3]: _to_be(event) for event in kept} | known, batch)

    async def _enter_held(self, log: UUID) -> Appended:
        """Append the next part of what is held of one log, unless it is still damaged."""
        held = self._writer.held
        messages, last = await held.next(log, _AT_ONCE, _BYTES_AT_ONCE)
        reread = [_reread(message) for message in messages]
        if not reread:
            return Appended([], {}, {})
        try:
            try:
                appended = await self._append(reread)
            except NotStorable:
                appended = Appended.all([await self._append_alone(message) for message in reread])
        except NotStorable as error:
            self._still.add(log)
            self._raise_alarm(log, error)
            return Appended([], {}, {})
        self._mended.add(log)
        self._alarmed.discard(log)
        await held.drop(log, last)
        return appended

    def _raise_alarm(self, log: UUID, error: NotStorable) -> None:
        if log not in self._alarmed:
            self._alarmed.add(log)
            _log.critical("the log of %s cannot be appended to (%s): its events are held", ids.tenant_id(log), error)


def _to_be(event: HeldEvent) -> Stored:
    """The entry that a held event is to become."""
    message = _reread(event.message)
    return Stored(digest_of_message(message), message.type if isinstance(message, Announced) else MALFORMED)


def _reread(message: HeldMessage) -> Announced | Unreadable:
    try:
        return read_event(message.subject, message.headers, message.data)
    except (ValueError, KeyError):
        return Unreadable(*message)


def _count(appended: Appended) -> None:
    metrics.APPENDED.inc(len(appended.entries))
    metrics.MALFORMED.inc(sum(entry.action == MALFORMED for entry, _ in appended.entries))


async def entry_of(tx: Reading, event_id: str) -> StoredEntry:
    """The entry of an event. NotFound without one; Conflict where several services used its id: neither is the event
    by its id alone, and one of them was announced by somebody in order to be taken for the other.
    """
    found = await repository.entries_of(tx, event_id)
    if not found:
        raise no_entry()
    if len(found) > 1:
        services = " and ".join(found)
        raise Conflict(f"The log has an event of this id of each of {services}. List the log to see all of them.")
    (stored,) = found.values()
    return stored


def no_entry() -> NotFound:
    """The refusal of an event that is not in the log."""
    return NotFound("There is no such event in this workspace's log. It may still be on its way: try again.")


def no_entry_of(awaited: str) -> NotFound:
    """The refusal of a wait that was in vain."""
    return NotFound(
        f"No entry of '{awaited}' came within {WAIT_SECONDS} s. It may still be on its way: try again. An act that was "
        "refused has none."
    )


def _index(position: str | None) -> int | None:
    if position is None:
        return None
    if not position.isascii() or not position.isdigit() or len(position) > 18:
        raise InvalidInput.of(position="is not a position of this log")
    return int(position)


def _view(ctx: AuthContext, stored: StoredEntry) -> EventView:
    return EventView(
        index=stored.index,
        id=stored.id,
        action=stored.action,
        actor=stored.actor,
        credential=stored.credential,
        target=stored.target,
        occurred_at=stored.occurred_at,
        request_id=stored.request_id,
        data=data_of(ctx, stored),
        leaf_hash=stored.leaf_hash.hex(),
    )
