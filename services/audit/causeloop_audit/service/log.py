"""Use cases of the log: taking events in, and reading."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from causeloop_audit import repository
from causeloop_audit.repository import Appended, LogWriter, NewEntry, NotStorable, Place, StoredEntry
from causeloop_common import ids, telemetry
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
from causeloop_common.contracts.base import PAGE_BYTES
from causeloop_common.database import Database
from causeloop_common.errors import InvalidInput, NotFound
from causeloop_log import entry as entries
from causeloop_log.entry import NotCanonical, v1
from causeloop_log.tlog.merkle import leaf_hash


class Unreadable(NamedTuple):
    """A message of the event stream that is no event: where it came from, and what it was."""

    subject: str
    sequence: int
    raw: bytes


class LogService:
    """One append-only log per tenant."""

    def __init__(self, database: Database, writer: LogWriter, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._database = database
        self._writer = writer
        self._entropy = entropy

    async def append(self, batch: Sequence[Announced | Unreadable]) -> Appended:
        """Append a batch in its order, each event once; what cannot be read is entered as malformed."""
        try:
            done = [await self._append(batch)]
        except NotStorable:
            done = []
            for message in batch:  # find the one, and enter it as what it is
                try:
                    done.append(await self._append([message]))
                except NotStorable:
                    done.append(await self._append([_unreadable(message)]))
        appended = done[0] if len(done) == 1 else Appended.all(done)
        telemetry.APPENDED.inc(len(appended.entries))
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
            found = await repository.list_events(tx, newest=newest, limit=command.limit + 1, filters=filters)
        page: list[StoredEntry] = []
        size = 0
        for stored in found[: command.limit]:
            size += len(stored.leaf or "")
            if page and size > PAGE_BYTES:
                break
            page.append(stored)
        more = len(found) > len(page)
        return EventPage(data=[_view(stored) for stored in page], next_position=str(page[-1].index) if more else None)

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
        return await self._writer.append(
            [place(message) for message in batch], lambda number: self._entry(batch[number])
        )

    def _entry(self, message: Announced | Unreadable) -> NewEntry:
        salt = self._entropy(v1.SALT_BYTES)
        if isinstance(message, Announced):
            fields, leaf = _event(message, salt)
        else:
            fields = _malformed(_tenant_of(message.subject), _id_of(message), message.raw)
            leaf = v1.leaf(fields, salt)
        return NewEntry(
            fields.action, fields.actor, fields.credential, fields.target, fields.request_id, fields.occurred_at,
            leaf_hash(leaf), leaf.decode(),
        )  # fmt: skip


def place(message: Announced | Unreadable) -> Place:
    """Where a message's entry belongs."""
    if isinstance(message, Announced):
        return ids.tenant_uuid(message.tenant), ids.decode(message.id, "evt")
    return ids.tenant_uuid(_tenant_of(message.subject)), ids.decode(_id_of(message), "evt")


def no_entry() -> NotFound:
    """The refusal of an event that is not in the log."""
    return NotFound("There is no such event in this workspace's log. It may still be on its way: try again.")


def _event(event: Announced, salt: bytes) -> tuple[v1.Fields, bytes]:
    """An event's entry and its leaf; as malformed when the data has no canonical form."""
    try:
        fields = v1.Fields(
            event.id, event.tenant, event.type, event.actor, event.credential, event.target, event.occurred_at,
            event.request_id, entries.read_data(event.data),
        )  # fmt: skip
        return fields, v1.leaf(fields, salt)
    except NotCanonical:
        fields = _malformed(event.tenant, event.id, event.data)
        return fields, v1.leaf(fields, salt)


def _unreadable(message: Announced | Unreadable) -> Unreadable:
    if isinstance(message, Unreadable):
        return message
    return Unreadable(f"evt.{message.tenant}.{message.type}", 0, message.id.encode() + message.data)


def _malformed(tenant: str, event_id: str, raw: bytes) -> v1.Fields:
    telemetry.MALFORMED.inc()
    return v1.Fields(
        id=event_id,
        tenant=tenant,
        action=entries.MALFORMED,
        actor="svc_audit",
        credential=None,
        target=event_id,
        occurred_at=datetime.now(UTC),
        request_id="",
        data=entries.digest_of(raw),
    )


def _tenant_of(subject: str) -> str:
    """The tenant that the subject names; the installation's realm when it names none."""
    tenant = subject.split(".")[1] if subject.count(".") else ""
    try:
        ids.tenant_uuid(tenant)
    except ValueError:
        return ids.INSTALLATION
    return tenant


def _id_of(message: Unreadable) -> str:
    """An id for what has none: the same for every delivery."""
    return ids.derived("evt", f"{message.sequence}\n{message.subject}\n".encode() + message.raw)


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
