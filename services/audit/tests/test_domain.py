"""The entry that a message becomes."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from causeloop_audit.domain.entries import Unreadable, identity, new_entry, unreadable
from causeloop_common import ids
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import EVENT_BYTES
from causeloop_log.entry import LARGEST
from causeloop_log.tlog.merkle import leaf_hash

Make = Callable[..., Announced]
SALT = bytes(16)
NOW = datetime(2026, 1, 2, tzinfo=UTC)


class TestEntry:
    def test_of_an_event_has_its_attributes_and_the_hash_of_its_leaf(self, event: Make) -> None:
        one = event(occurred_at=NOW - timedelta(hours=1))

        entry = new_entry(one, SALT, NOW)

        assert (entry.log, entry.event) == identity(one) == (ids.tenant_uuid(one.tenant), ids.decode(one.id, "evt"))
        assert (entry.action, entry.actor, entry.target, entry.occurred_at) == (
            one.type, one.actor, one.target, one.occurred_at,
        )  # fmt: skip
        assert entry.leaf_hash == leaf_hash(entry.leaf.encode())
        leaf = orjson.loads(entry.leaf)
        assert (leaf["id"], leaf["tenant"], leaf["data"], leaf["salt"]) == (
            one.id,
            one.tenant,
            {"version": 1},
            "0" * 32,
        )

    def test_of_an_event_without_canonical_data_is_malformed_under_the_event_s_id(self, event: Make) -> None:
        one = event(data=b'{"rate":1.5}')

        entry = new_entry(one, SALT, NOW)

        assert (entry.log, entry.event) == identity(one)
        assert (entry.action, entry.actor, entry.target, entry.occurred_at) == (
            "audit.malformed", "svc_audit", one.id, NOW,
        )  # fmt: skip
        digest = {"sha256": hashlib.sha256(one.data).hexdigest(), "size": len(one.data)}
        assert orjson.loads(entry.leaf)["data"] == digest

    def test_no_event_that_a_service_can_announce_is_too_large_for_its_entry(self, event: Make) -> None:
        """P10: an entry stays below what foreign readers of proofs and tiles take."""
        longest = dict.fromkeys(("actor", "credential", "target", "request_id"), "x" * 256)
        largest = event(type=f"{'x' * 64}.{'x' * 64}", data=b'{"a":"%s"}' % (b"x" * (EVENT_BYTES - 8)), **longest)

        entry = new_entry(largest, SALT, NOW)

        assert entry.action == largest.type
        assert len(entry.leaf) < LARGEST

    def test_of_an_unreadable_message_is_the_same_event_at_every_delivery(self) -> None:
        tenant = ids.new("ws")
        first = Unreadable(f"evt.{tenant}.vault.x", 7, b"\x00")

        assert new_entry(first, SALT, NOW).action == "audit.malformed"
        assert identity(first) == identity(Unreadable(*first))
        assert identity(first)[0] == ids.tenant_uuid(tenant)
        assert identity(first)[1] != identity(first._replace(sequence=8))[1]

    @pytest.mark.parametrize("subject", ["evt", "evt.nobody.vault.x", "evt..x"])
    def test_of_a_message_whose_subject_has_no_tenant_belongs_to_the_installation(self, subject: str) -> None:
        assert Unreadable(subject, 1, b"").tenant == ids.INSTALLATION

    def test_an_event_that_cannot_be_stored_keeps_its_tenant_as_an_unreadable_message(self, event: Make) -> None:
        message = unreadable(event())

        assert message.subject.startswith(f"evt.{message.tenant}.vault.secret_written")
        assert unreadable(message) == message
