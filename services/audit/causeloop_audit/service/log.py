"""Use cases of the log: appending events, and reading them."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from causeloop_audit import repository
from causeloop_audit.domain.entries import Unreadable, new_entry, unreadable
from causeloop_audit.repository import Appended, LogWriter, NotStorable, StoredEntry
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import (
    EventPage,
    EventView,
    GetEvent,
    ListEvents,
    ReadStream,
    StreamEntry,
    StreamPage,
)
from causeloop_common.contracts.lists import page
from causeloop_common.database import Database
from causeloop_common.errors import InvalidInput, NotFound
from causeloop_common.telemetry import metrics
from causeloop_log.entry import MALFORMED
from causeloop_log.entry.v1 import SALT_BYTES


class LogService:
    """One append-only log per tenant."""

    def __init__(self, database: Database, writer: LogWriter, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._database = database
        self._writer = writer
        self._entropy = entropy

    async def append(self, batch: Sequence[Announced | Unreadable]) -> Appended:
        """Append a batch in its order, each event once. A message that cannot be read is entered as malformed."""
        try:
            appended = await self._append(batch)
        except NotStorable:  # one by one, so that only the refused one is entered as malformed
            appended = Appended.all([await self._append_alone(message) for message in batch])
        metrics.APPENDED.inc(len(appended.entries))
        metrics.MALFORMED.inc(sum(entry.action == MALFORMED for entry, _ in appended.entries))
        return appended

    async def list_events(self, ctx: AuthContext, command: ListEvents) -> EventPage:
        """The tenant's log, cut at the page's size in entries and in bytes."""
        newest = command.order == "newest"
        filters: dict[str, Any] = {
            "actor": command.actor,
            "action": command.action,
            "target": command.target,
            "since": command.since,
            "until": command.until,
            "before" if newest else "after": _index(command.position),
        }
        async with self._database.transaction(ctx) as tx:
            found = await repository.list_events(tx, newest=newest, limit=command.wanted, filters=filters)
        return page(found, command, key=lambda one: str(one.index), show=_view, size=lambda one: len(one.leaf or ""))

    async def get_event(self, ctx: AuthContext, command: GetEvent) -> EventView:
        """One entry of the tenant's log."""
        async with self._database.transaction(ctx) as tx:
            stored = await repository.entry(tx, command.id)
        if stored is None:
            raise no_entry()
        return _view(stored)

    async def read_stream(self, ctx: AuthContext, command: ReadStream) -> StreamPage:
        """The tenant's log from one place on, as it is stored."""
        async with self._database.transaction(ctx) as tx:
            leaves, size = await repository.read(
                tx, start=command.start, limit=command.limit, max_bytes=command.max_bytes
            )
        page = [StreamEntry(index=one.index, leaf=one.leaf, leaf_hash=one.leaf_hash.hex()) for one in leaves]
        return StreamPage(entries=page, size=size)

    async def _append(self, batch: Sequence[Announced | Unreadable]) -> Appended:
        logs = [ids.tenant_uuid(tenant) for tenant in {message.tenant for message in batch}]
        now = datetime.now(UTC)
        entries = (new_entry(message, self._entropy(SALT_BYTES), now) for message in batch)
        return await self._writer.append(logs, entries)

    async def _append_alone(self, message: Announced | Unreadable) -> Appended:
        try:
            return await self._append([message])
        except NotStorable:
            return await self._append([unreadable(message)])


def no_entry() -> NotFound:
    """The refusal of an event that is not in the log."""
    return NotFound("There is no such event in this workspace's log. It may still be on its way: try again.")


def _index(position: str | None) -> int | None:
    if position is None:
        return None
    if not position.isascii() or not position.isdigit() or len(position) > 18:
        raise InvalidInput.of(position="is not a position of this log")
    return int(position)


def _view(stored: StoredEntry) -> EventView:
    return EventView(
        index=stored.index,
        id=stored.id,
        action=stored.action,
        actor=stored.actor,
        credential=stored.credential,
        target=stored.target,
        occurred_at=stored.occurred_at,
        request_id=stored.request_id,
        data=None if stored.leaf is None else orjson.loads(stored.leaf)["data"],
        leaf_hash=stored.leaf_hash.hex(),
    )
