"""The entry that a message becomes, and how many short logs are an older copy."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from causeloop_audit.domain.entries import Unreadable, digest_of_message, identity, new_entry, unreadable
from causeloop_audit.domain.restored import is_older_copy
from causeloop_common import ids
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import EVENT_BYTES
from causeloop_log.entry import LARGEST
from causeloop_log.tlog.merkle import leaf_hash

Make = Callable[..., Announced]
KEY = bytes(32)
NOW = datetime(2026, 1, 2, tzinfo=UTC)


class TestEntry:
    def test_of_an_event_has_its_attributes_and_the_hash_of_its_leaf(self, event: Make) -> None:
        one = event(occurred_at=NOW - timedelta(hours=1))

        entry = new_entry(one, KEY)

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
            one.salt,
        )

    @pytest.mark.parametrize("salt", [None, "", "odd", "A" * 32, "0" * 33])
    def test_of_an_event_without_a_salt_gets_one_that_is_the_same_again(self, event: Make, salt: str | None) -> None:
        """P6: entered again, after a restore, it is the same entry; without the key nobody can guess the salt."""
        one = event(salt=salt)

        made = orjson.loads(new_entry(one, KEY).leaf)["salt"]

        assert len(bytes.fromhex(made)) == 16
        assert new_entry(one, KEY) == new_entry(one, KEY)
        others = [new_entry(one, b"another"), new_entry(one._replace(data=b"{}"), KEY), new_entry(event(), KEY)]
        assert made not in [orjson.loads(other.leaf)["salt"] for other in others]

    def test_of_an_event_without_canonical_data_is_malformed_under_the_event_s_id(self, event: Make) -> None:
        one = event(data=b'{"rate":1.5}')

        entry = new_entry(one, KEY)

        assert entry[:3] == identity(one)
        assert (entry.action, entry.actor, entry.target, entry.occurred_at) == (
            "audit.malformed", "svc_audit", one.id, one.occurred_at,
        )  # fmt: skip
        assert orjson.loads(entry.leaf)["salt"] == one.salt
        digest = {"sha256": hashlib.sha256(one.data).hexdigest(), "size": len(one.data)}
        assert orjson.loads(entry.leaf)["data"] == digest

    def test_no_event_that_a_service_can_announce_is_too_large_for_its_entry(self, event: Make) -> None:
        """P10: an entry stays below what foreign readers of proofs and tiles take."""
        longest = dict.fromkeys(("actor", "credential", "target", "request_id"), "x" * 256)
        largest = event(type=f"{'x' * 64}.{'x' * 64}", data=b'{"a":"%s"}' % (b"x" * (EVENT_BYTES - 8)), **longest)

        entry = new_entry(largest, KEY)

        assert entry.action == largest.type
        assert len(entry.leaf) < LARGEST

    def test_of_an_unreadable_message_is_the_same_event_at_every_delivery(self) -> None:
        tenant = ids.new("ws")
        first = Unreadable(f"evt.{tenant}.vault.x", {}, b"\x00", NOW)

        entry = new_entry(first, KEY)
        assert entry == new_entry(first, KEY)
        assert entry.action == "audit.malformed"
        assert entry[:3] == identity(first) == identity(Unreadable(*first))
        assert identity(first)[:2] == (ids.tenant_uuid(tenant), "vault")
        assert identity(first)[2] != identity(first._replace(data=b"\x01"))[2]
        assert identity(first)[2] != identity(first._replace(subject=f"evt.{tenant}.vault.y"))[2]

    def test_of_an_unreadable_message_keeps_the_id_that_it_claims(self) -> None:
        """P3: whatever comes under the id of an event is that event, for its service, whether it can be read or not."""
        claimed = ids.new("evt")
        first = Unreadable(f"evt.{ids.new('ws')}.vault.x", {"ce-id": claimed}, b"\x00", NOW)

        assert identity(first)[1:] == ("vault", ids.decode(claimed, "evt"))
        assert identity(first._replace(subject=first.subject.replace("vault", "auth")))[1] == "auth"

    @pytest.mark.parametrize(
        ("claimed", "found"),
        [
            ("2026-01-02T03:04:05.678+02:00", datetime(2026, 1, 2, 1, 4, 5, 678000, tzinfo=UTC)),
            ("2026-01-02T03:04:05", NOW),
            ("1999-12-31T00:00:00+00:00", NOW),
            ("9001-01-01T00:00:00+00:00", NOW),
            ("noon", NOW),
            (None, NOW),
        ],
    )
    def test_of_an_unreadable_message_has_a_time_that_the_message_has(
        self, claimed: str | None, found: datetime
    ) -> None:
        """P6: the time that it claims, if it is one, else the time at which the stream stored it; never the clock's."""
        headers = {} if claimed is None else {"ce-time": claimed}

        entry = new_entry(Unreadable(f"evt.{ids.new('ws')}.vault.x", headers, b"\x00", NOW), KEY)

        assert entry.occurred_at == found

    @pytest.mark.parametrize("subject", ["evt", "evt.nobody.vault.x", "evt..x"])
    def test_of_a_message_whose_subject_has_no_tenant_belongs_to_the_installation(self, subject: str) -> None:
        assert Unreadable(subject, {}, b"", NOW).tenant == ids.INSTALLATION

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

    def test_of_an_event_without_a_salt_is_that_of_before_there_were_salts(self) -> None:
        one = Announced("evt_1", "ws_1", "vault.secret_written", NOW, b"{}", "usr_1", "sec_1", request_id="req_1")
        lines = f"evt.ws_1.vault.secret_written\nevt_1\n{NOW.isoformat()}\nusr_1\nsec_1\n\0\n\0\nreq_1\n{{}}"

        assert digest_of_message(one) == hashlib.sha256(lines.encode()).digest()
        salted = hashlib.sha256(f"salt ab\n{lines}".encode()).digest()
        assert digest_of_message(one._replace(salt="ab")) == salted


class TestOlderCopy:
    @pytest.mark.parametrize(
        ("short", "logs", "is_older"), [(0, 0, False), (2, 2, False), (3, 4, True), (3, 31, False), (40, 400, True)]
    )
    def test_is_found_by_many_logs_that_lost_their_end(self, short: int, logs: int, is_older: bool) -> None:
        """P6: a restored database makes audit not ready; the fault of a few tenants' logs does not."""
        assert is_older_copy(short, logs) is is_older
