"""A tenant's log as it lies in the database, and whether it holds: computed again by the words of RFC 6962."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from causeloop_common import ids
from causeloop_common.contracts import topology
from tests.support.stack import Person, Stack, until


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


async def stored_log(stack: Stack, tenant: str) -> tuple[list[Any], Any]:
    """A tenant's entries by index and its head, as they lie in the database."""
    async with stack.sql() as sql:
        workspace = ids.tenant_uuid(tenant)
        entries = await sql.fetch("SELECT * FROM audit.entries WHERE workspace_id = $1 ORDER BY index", workspace)
        head = await sql.fetchrow("SELECT * FROM audit.heads WHERE workspace_id = $1", workspace)
    return entries, head


def assert_computes(entries: list[Any], head: Any, tenant: str) -> None:
    """Indexes are dense, every leaf is canonical and hashes to what is stored, and all of them to the head's root."""
    assert [entry["index"] for entry in entries] == list(range(len(entries)))
    assert head["size"] == len(entries)
    for entry in entries:
        leaf = json.loads(entry["leaf"])
        assert entry["leaf"] == json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert entry["leaf_hash"] == hashlib.sha256(b"\x00" + entry["leaf"].encode()).digest()
        assert leaf["tenant"] == tenant
        assert leaf["id"] == ids.encode("evt", entry["event_id"])
        assert len(bytes.fromhex(leaf["salt"])) == 16
    assert len({json.loads(entry["leaf"])["salt"] for entry in entries}) == len(entries)
    assert head["root"] == tree_hash([entry["leaf"].encode() for entry in entries])


async def completed_log(stack: Stack, person: Person) -> list[Any]:
    """The workspace's entries once every event that was committed has arrived, each exactly once, and all computes."""
    workspace = ids.tenant_uuid(person.workspace)

    async def missing() -> set[Any]:
        async with stack.sql() as sql:
            committed = await sql.fetch(
                " UNION ALL ".join(
                    f"SELECT event_id FROM {schema}.outbox WHERE workspace_id = $1" for schema in topology.OWNERS
                ),
                workspace,
            )
            entered = await sql.fetch("SELECT event_id FROM audit.entries WHERE workspace_id = $1", workspace)
        return {row["event_id"] for row in committed} - {row["event_id"] for row in entered}

    async def complete() -> bool:
        return not await missing()

    await until("every committed event is in the log", complete)
    entries, head = await stored_log(stack, person.workspace)
    assert_computes(entries, head, person.workspace)
    assert len({entry["event_id"] for entry in entries}) == len(entries)
    return entries
