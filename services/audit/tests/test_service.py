"""The log's use cases, on real PostgreSQL."""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from causeloop_audit.domain.entries import NewEntry, Unreadable, new_entry
from causeloop_audit.repository import entries
from causeloop_audit.service import LogService, Readers, log as room
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import LAST_INDEX, GetEvent, ListEvents, ReadStream
from causeloop_common.errors import InvalidInput, NotFound
from causeloop_dev.testing import Servers, context
from causeloop_log.tlog.merkle import Frontier, leaf_hash
from tests.support.pages import pages

Make = Callable[..., Announced]
NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def stored(servers: Servers, tenant: str) -> tuple[list[Any], Any]:
    """The leaves of a tenant in order, and its head, as they lie in the database."""
    connection = await asyncpg.connect(servers.superuser_url)
    try:
        where = "WHERE workspace_id = $1"
        key = ids.tenant_uuid(tenant)
        leaves = await connection.fetch(f"SELECT index, leaf, leaf_hash FROM audit.entries {where} ORDER BY index", key)
        return leaves, await connection.fetchrow(f"SELECT size, root FROM audit.heads {where}", key)
    finally:
        await connection.close()


def tree(leaves: list[Any]) -> bytes:
    """The root over stored leaves."""
    frontier = Frontier()
    for row in leaves:
        frontier.append(row["leaf_hash"])
    return frontier.root()


class TestAppend:
    async def test_indexes_are_dense_and_the_head_is_the_root_of_the_stored_leaves(
        self, log: LogService, servers: Servers, workspace: AuthContext, event: Make
    ) -> None:
        for number, size in ((1, 1), (3, 4), (7, 11)):
            assert (await log.append([event() for _ in range(number)])).sizes == {workspace.tenant_uuid: size}

        leaves, head = await stored(servers, workspace.tenant)
        for index, row in enumerate(leaves):
            assert row["index"] == index
            assert row["leaf_hash"] == leaf_hash(row["leaf"].encode())
        assert (head["size"], head["root"]) == (11, tree(leaves))

    async def test_an_event_delivered_again_is_entered_once(
        self, log: LogService, servers: Servers, workspace: AuthContext, event: Make
    ) -> None:
        first, second, third = event(), event(), event()

        assert (await log.append([first, second, first])).sizes == {workspace.tenant_uuid: 2}
        assert (await log.append([second, third])).sizes == {workspace.tenant_uuid: 3}
        assert (await log.append([first, third])).sizes == {}

        leaves, head = await stored(servers, workspace.tenant)
        assert [orjson.loads(row["leaf"])["id"] for row in leaves] == [first.id, second.id, third.id]
        assert head["size"] == 3

    async def test_a_batch_of_many_tenants_keeps_each_ones_order(
        self, log: LogService, servers: Servers, event: Make
    ) -> None:
        tenants = [ids.new("ws") for _ in range(20)]
        batch = [event(tenant=tenant) for _ in range(5) for tenant in tenants]

        assert (await log.append(batch)).sizes == {ids.tenant_uuid(tenant): 5 for tenant in tenants}

        for tenant in tenants:
            leaves, head = await stored(servers, tenant)
            assert [orjson.loads(row["leaf"])["id"] for row in leaves] == [e.id for e in batch if e.tenant == tenant]
            assert head["size"] == 5

    async def test_writers_at_once_neither_fork_a_log_nor_block_each_other(
        self, log: LogService, servers: Servers, workspace: AuthContext, event: Make
    ) -> None:
        other = ids.new("ws")
        services = [
            LogService(log._database, log._writer, bytes(32), Readers()) for _ in range(4)
        ]  # each batch has a connection of its own

        async def append(service: LogService) -> None:
            for _ in range(10):
                await service.append([event(), event(tenant=other), event()])

        await asyncio.gather(*map(append, services))

        for tenant, size in ((workspace.tenant, 80), (other, 40)):
            leaves, head = await stored(servers, tenant)
            assert [row["index"] for row in leaves] == list(range(size))
            assert (head["size"], head["root"]) == (size, tree(leaves))

    async def test_an_event_without_canonical_data_is_entered_as_malformed_with_its_digest(
        self, log: LogService, workspace: AuthContext, event: Make
    ) -> None:
        raw = b'{"rate": 1.5}'
        bad = event(data=raw)

        await log.append([event(), bad, event()])

        entered = await log.get_event(workspace, GetEvent(id=bad.id))
        assert entered.action == "audit.malformed"
        assert entered.data == {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}

    async def test_what_is_no_event_is_entered_once_in_the_log_of_its_subject(
        self, log: LogService, workspace: AuthContext
    ) -> None:
        what = Unreadable(f"evt.{workspace.tenant}.vault.x", {}, b"\x00\x01", NOW)

        assert (await log.append([what])).sizes == {workspace.tenant_uuid: 1}
        assert (await log.append([what])).sizes == {}

        page = await log.list_events(workspace, ListEvents())
        assert [entry.action for entry in page.data] == ["audit.malformed"]

    async def test_what_names_no_tenant_is_entered_in_the_installation_s_realm(self, log: LogService) -> None:
        what = Unreadable("evt.nobody.vault.x", {}, ids.new("x").encode(), NOW)

        assert set((await log.append([what])).sizes) == {ids.tenant_uuid(ids.INSTALLATION)}

        page = await log.list_events(context(ids.INSTALLATION), ListEvents())
        assert "audit.malformed" in {entry.action for entry in page.data}

    async def test_one_that_the_database_cannot_hold_does_not_keep_the_others_out(
        self, log: LogService, workspace: AuthContext, event: Make
    ) -> None:
        good, bad, late = event(), event(actor="usr_\x00"), event()

        await log.append([good, bad, late])

        page = await log.list_events(workspace, ListEvents(order="index"))
        assert [entry.action for entry in page.data] == [
            "vault.secret_written",
            "audit.malformed",
            "vault.secret_written",
        ]

    @pytest.mark.parametrize("where", [0, 99, 100, 230])
    async def test_in_a_large_batch_too_wherever_it_stands(
        self, log: LogService, servers: Servers, workspace: AuthContext, event: Make, where: int
    ) -> None:
        batch = [event() for _ in range(231)]
        bad = batch[where] = event(actor="usr_\x00")
        batch.insert(120, batch[10])  # and one is delivered twice

        assert (await log.append(batch)).sizes == {workspace.tenant_uuid: 231}

        leaves, head = await stored(servers, workspace.tenant)
        entered = [orjson.loads(row["leaf"])["id"] for row in leaves]
        expected = [one.id for one in batch[:120] + batch[121:]]
        assert [one for one, name in zip(entered, expected, strict=True) if name != bad.id] == [
            name for name in expected if name != bad.id
        ]
        assert orjson.loads(leaves[where]["leaf"])["action"] == "audit.malformed"
        assert (head["size"], head["root"]) == (231, tree(leaves))

    async def test_a_batch_with_entries_of_before_in_each_part_adds_only_the_others(
        self, log: LogService, servers: Servers, workspace: AuthContext, event: Make
    ) -> None:
        batch = [event() for _ in range(250)]
        before = batch[::50]
        await log.append(before)

        appended = await log.append(batch)

        new = [one for one in batch if one not in before]
        assert [(entry.event, index) for entry, index in appended.entries] == [
            (ids.decode(one.id, "evt"), 5 + index) for index, one in enumerate(new)
        ]
        leaves, head = await stored(servers, workspace.tenant)
        assert [orjson.loads(row["leaf"])["id"] for row in leaves] == [one.id for one in before + new]
        assert (head["size"], head["root"]) == (250, tree(leaves))

    @pytest.mark.parametrize("at", [0, 150])
    async def test_a_fault_while_entries_are_made_leaves_nothing_behind_and_the_writer_usable(
        self,
        log: LogService,
        servers: Servers,
        workspace: AuthContext,
        event: Make,
        at: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        made = 0

        def make(message: Announced | Unreadable, key: bytes) -> NewEntry:
            nonlocal made
            made += 1
            if made > at:
                raise MemoryError
            return new_entry(message, key)

        batch = [event() for _ in range(200)]
        with monkeypatch.context() as patched:
            patched.setattr(room, "new_entry", make)
            with pytest.raises(MemoryError):
                await log.append(batch)
        assert await stored(servers, workspace.tenant) == ([], None)

        monkeypatch.undo()
        assert (await log.append(batch)).sizes == {workspace.tenant_uuid: 200}

    async def test_one_that_is_cancelled_leaves_all_or_nothing_and_the_writer_usable(
        self, log: LogService, servers: Servers, workspace: AuthContext, event: Make
    ) -> None:
        batch = [event() for _ in range(500)]
        sizes = set()
        for turns in range(0, 40, 2):
            appending = asyncio.create_task(log.append(batch))
            for _ in range(turns):
                await asyncio.sleep(0.0002)
            appending.cancel()
            await asyncio.wait([appending])
            leaves, head = await stored(servers, workspace.tenant)
            assert len(leaves) == (head["size"] if head else 0)
            sizes.add(len(leaves))

        assert sizes <= {0, 500}
        await log.append(batch)
        leaves, head = await stored(servers, workspace.tenant)
        assert [orjson.loads(row["leaf"])["id"] for row in leaves] == [one.id for one in batch]
        assert (head["size"], head["root"]) == (500, tree(leaves))


class TestListEvents:
    async def test_newest_first_and_by_index_are_each_other_s_reverse(
        self, log: LogService, workspace: AuthContext, event: Make
    ) -> None:
        batch = [event() for _ in range(7)]
        await log.append(batch)

        async def walk(order: str) -> list[str]:
            command = ListEvents.model_validate({"order": order, "limit": 3})
            return [entry.id for page in await pages(log.list_events, workspace, command) for entry in page]

        assert await walk("index") == [one.id for one in batch]
        assert await walk("newest") == [one.id for one in reversed(batch)]

    async def test_filters_by_actor_action_target_and_time(
        self, log: LogService, workspace: AuthContext, event: Make
    ) -> None:
        one = event(type="vault.secret_revealed")
        two = event(type="vault_other.thing", actor="svc_x", occurred_at=one.occurred_at + timedelta(hours=1))
        three = event(type="tenancy.member_added", target="usr_t", occurred_at=one.occurred_at + timedelta(hours=2))
        await log.append([one, two, three])

        async def found(**filters: Any) -> list[str]:
            page = await log.list_events(workspace, ListEvents.model_validate({"order": "index", **filters}))
            return [entry.id for entry in page.data]

        assert await found(action="vault.") == [one.id]
        assert await found(action="vault_") == [two.id]
        assert await found(actor="svc_x") == [two.id]
        assert await found(target="usr_t") == [three.id]
        assert await found(since=two.occurred_at) == [two.id, three.id]
        assert await found(until=two.occurred_at) == [one.id]
        assert await found(since=two.occurred_at, actor=workspace.principal) == [three.id]

    async def test_a_poll_by_index_sees_what_one_by_time_misses(
        self, log: LogService, workspace: AuthContext, event: Make
    ) -> None:
        """E31: an act may enter the log after later ones; the description names the way that misses none."""
        early = event()
        seen, late = event(occurred_at=early.occurred_at + timedelta(seconds=5)), early
        await log.append([seen])
        first = await log.list_events(workspace, ListEvents(order="index"))
        await log.append([late])

        by_time = await log.list_events(workspace, ListEvents(order="index", since=first.data[-1].occurred_at))
        assert late.id not in [entry.id for entry in by_time.data]
        after = str(first.data[-1].index)
        by_index = await log.list_events(workspace, ListEvents(order="index", position=after))
        assert [entry.id for entry in by_index.data] == [late.id]
        assert "To poll, go on by index: a poll by `since` misses those." in " ".join(
            (ListEvents.__doc__ or "").split()
        )

    async def test_a_page_is_cut_at_its_size_in_bytes(
        self, log: LogService, workspace: AuthContext, event: Make
    ) -> None:
        data = orjson.dumps({"text": "x" * 40_000})
        await log.append([event(data=data) for _ in range(16)])

        page = await log.list_events(workspace, ListEvents(limit=100))

        assert len(page.data) == 12
        assert page.next_position is not None

    @pytest.mark.parametrize("order", ["index", "newest"])
    async def test_a_page_tries_so_many_entries_and_the_next_goes_on(
        self, log: LogService, workspace: AuthContext, event: Make, monkeypatch: pytest.MonkeyPatch, order: str
    ) -> None:
        monkeypatch.setattr(entries, "MOST_TRIED", 4)
        monkeypatch.setattr(entries, "_list", entries._list.__wrapped__)
        batch = [event(type="vault.secret_revealed" if n in (1, 9) else "vault.secret_written") for n in range(10)]
        await log.append(batch)
        command = ListEvents.model_validate({"order": order, "action": "vault.secret_revealed"})

        found = [[entry.id for entry in page] for page in await pages(log.list_events, workspace, command)]

        one, nine = batch[1].id, batch[9].id
        assert found == ([[one], [], [nine]] if order == "index" else [[nine], [], [one]])

    async def test_refuses_a_position_that_is_none(self, log: LogService, workspace: AuthContext) -> None:
        with pytest.raises(InvalidInput) as refused:
            await log.list_events(workspace, ListEvents(position="-1"))
        assert refused.value.fields == {"position": ["is not a position of this log"]}

    async def test_shows_nothing_of_another_tenant(
        self, log: LogService, event: Make, as_user: Callable[..., AuthContext]
    ) -> None:
        await log.append([event()])
        assert (await log.list_events(as_user(ids.new("ws")), ListEvents())).data == []


class TestGetEvent:
    async def test_tells_an_entry_by_its_event(self, log: LogService, workspace: AuthContext, event: Make) -> None:
        one = event()
        await log.append([one])

        found = await log.get_event(workspace, GetEvent(id=one.id))

        assert (found.index, found.id, found.action, found.target) == (0, one.id, one.type, one.target)
        assert (found.actor, found.credential, found.data) == (one.actor, one.credential, {"version": 1})

    async def test_of_another_tenant_is_not_found(
        self, log: LogService, event: Make, as_user: Callable[..., AuthContext]
    ) -> None:
        one = event()
        await log.append([one])
        with pytest.raises(NotFound, match="no such event in this workspace's log"):
            await log.get_event(as_user(ids.new("ws")), GetEvent(id=one.id))


class TestReadStream:
    async def test_tells_the_stored_bytes_from_one_place_on(
        self, log: LogService, servers: Servers, workspace: AuthContext, event: Make
    ) -> None:
        await log.append([event() for _ in range(5)])

        page = await log.read_stream(workspace, ReadStream(start=2, limit=2))

        leaves, _ = await stored(servers, workspace.tenant)
        assert [(e.index, e.leaf, e.leaf_hash) for e in page.entries] == [
            (row["index"], row["leaf"], row["leaf_hash"].hex()) for row in leaves[2:4]
        ]
        assert page.size == 5

    @pytest.mark.parametrize("start", [3, 4, LAST_INDEX])
    async def test_at_or_after_the_end_tells_the_size_alone(
        self, log: LogService, workspace: AuthContext, event: Make, start: int
    ) -> None:
        await log.append([event() for _ in range(3)])
        page = await log.read_stream(workspace, ReadStream(start=start))
        assert (page.entries, page.size) == ([], 3)

    async def test_of_a_tenant_without_a_log_tells_that_it_is_empty(
        self, log: LogService, workspace: AuthContext
    ) -> None:
        page = await log.read_stream(workspace, ReadStream(start=0))
        assert (page.entries, page.size) == ([], 0)

    async def test_a_page_is_cut_at_its_size_in_bytes_and_has_at_least_one_entry(
        self, log: LogService, workspace: AuthContext, event: Make
    ) -> None:
        data = orjson.dumps({"text": "x" * 40_000})
        await log.append([event(data=data) for _ in range(16)])

        page = await log.read_stream(workspace, ReadStream(start=1))
        assert [entry.index for entry in page.entries] == list(range(1, 13))
        assert sum(len(entry.leaf or "") for entry in page.entries) <= 512 * 1024
        single = await log.read_stream(workspace, ReadStream(start=5, max_bytes=1))
        assert [entry.index for entry in single.entries] == [5]

    async def test_what_retention_removed_is_reported_by_its_hash(
        self, log: LogService, workspace: AuthContext, event: Make, superuser: asyncpg.Connection
    ) -> None:
        await log.append([event() for _ in range(3)])
        await superuser.execute(
            "UPDATE audit.entries SET leaf = NULL WHERE workspace_id = $1 AND index < 2", workspace.tenant_uuid
        )
        page = await log.read_stream(workspace, ReadStream(start=0, max_bytes=400))
        assert [(e.index, e.leaf is None, len(e.leaf_hash)) for e in page.entries] == [(0, True, 64), (1, True, 64)]

    async def test_shows_nothing_of_another_tenant(
        self, log: LogService, event: Make, as_user: Callable[..., AuthContext]
    ) -> None:
        await log.append([event()])
        page = await log.read_stream(as_user(ids.new("ws")), ReadStream(start=0))
        assert (page.entries, page.size) == ([], 0)
