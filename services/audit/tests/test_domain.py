"""The entry that a message becomes."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from causeloop_audit.domain.entries import Unreadable, digest_of_message, identity, new_entry, unreadable
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

        assert entry[:3] == identity(one) == (ids.tenant_uuid(one.tenant), "vault", ids.decode(one.id, "evt"))
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

        assert entry[:3] == identity(one)
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
        first = Unreadable(f"evt.{tenant}.vault.x", {}, b"\x00")

        entry = new_entry(first, SALT, NOW)
        assert entry.action == "audit.malformed"
        assert entry[:3] == identity(first) == identity(Unreadable(*first))
        assert identity(first)[:2] == (ids.tenant_uuid(tenant), "vault")
        assert identity(first)[2] != identity(first._replace(data=b"\x01"))[2]
        assert identity(first)[2] != identity(first._replace(subject=f"evt.{tenant}.vault.y"))[2]

    def test_of_an_unreadable_message_keeps_the_id_that_it_claims(self) -> None:
        """P3: whatever comes under the id of an event is that event, for its service, whether it can be read or not."""
        claimed = ids.new("evt")
        first = Unreadable(f"evt.{ids.new('ws')}.vault.x", {"ce-id": claimed}, b"\x00")

        assert identity(first)[1:] == ("vault", ids.decode(claimed, "evt"))
        assert identity(first._replace(subject=first.subject.replace("vault", "auth")))[1] == "auth"

    @pytest.mark.parametrize("subject", ["evt", "evt.nobody.vault.x", "evt..x"])
    def test_of_a_message_whose_subject_has_no_tenant_belongs_to_the_installation(self, subject: str) -> None:
        assert Unreadable(subject, {}, b"").tenant == ids.INSTALLATION

    def test_an_event_that_cannot_be_stored_keeps_its_tenant_as_an_unreadable_message(self, event: Make) -> None:
        message = unreadable(event())

        assert message.subject.startswith(f"evt.{message.tenant}.vault.secret_written")
        assert unreadable(message) == message

    def test_an_event_that_cannot_be_stored_stays_the_same_event(self, event: Make) -> None:
        one = event(on_behalf_of=ids.new("usr"), credential=None)

        assert identity(unreadable(one)) == identity(one)
        assert digest_of_message(unreadable(one)) == digest_of_message(one)


class TestDigest:
    @pytest.mark.parametrize("field", [name for name in Announced._fields if name != "traceparent"])
    def test_counts_everything_that_the_entry_has(self, event: Make, field: str) -> None:
        one = event()
        changed: dict[str, Any] = {
            "tenant": ids.new("ws"), "id": ids.new("evt"), "occurred_at": NOW, "data": b"{}", "credential": None,
        }  # fmt: skip
        other = one._replace(**{field: changed.get(field, "another")})

        assert digest_of_message(one) != digest_of_message(other)

    def test_does_not_count_the_trace(self, event: Make) -> None:
        """The relay gives an event the trace of its publishing."""
        one = event()

        assert digest_of_message(one) == digest_of_message(one._replace(traceparent=""))
