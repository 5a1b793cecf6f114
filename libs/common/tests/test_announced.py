"""Events are read only when they are events."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from causeloop_common import ids
from causeloop_common.messaging import announced, event_headers
from tests.support.announcing import PERSON, an_event, arrived


class TestAnnounced:
    @given(st.binary(max_size=100), st.datetimes(datetime(2000, 1, 2), datetime(8999, 12, 30)), st.booleans())  # noqa: DTZ001
    def test_an_event_arrives_as_it_was_announced(self, data: bytes, when: datetime, anonymous: bool) -> None:
        event = an_event(data=data, occurred_at=when.replace(tzinfo=UTC))
        if anonymous:
            event = event._replace(credential=None, on_behalf_of=None)

        assert announced(arrived(event)) == event

    def test_it_is_a_cloudevent_with_the_streams_key_for_duplicates(self) -> None:
        event = an_event()
        headers = event_headers(event)

        assert headers["ce-id"] == event.id
        assert (headers["ce-specversion"], headers["ce-type"]) == ("1.0", "tenancy.member_added")
        assert headers["ce-source"] == "/causeloop/tenancy"

    def test_tenant_and_type_come_from_the_subject(self) -> None:
        event, tenant = an_event(), ids.new("ws")

        read = announced(arrived(event, subject=f"evt.{tenant}.auth.session_ended", ce_type="vault.x", ce_source="/x"))

        assert (read.tenant, read.type) == (tenant, "auth.session_ended")

    @pytest.mark.parametrize(
        "changed",
        [
            {"subject": ""},
            {"subject": "evt.ws_1.tenancy.member_added"},
            {"subject": f"evt.{PERSON}.tenancy"},
            {"subject": f"evt.{PERSON}.tenancy.member.added"},
            {"subject": f"evt.{PERSON}.tenancy.{'x' * 65}"},
            {"subject": f"evt.{PERSON}.tenancy.member\u200b_added"},
            {"subject": f"evt.{PERSON}.ten ancy.member_added"},
            {"subject": f"evt.{PERSON.replace('usr_', 'ws_')}.tenancy.member_added"},
            {"ce_id": None},
            {"ce_id": "evt_1"},
            {"ce_id": PERSON},
            {"ce_time": None},
            {"ce_time": "yesterday"},
            {"ce_time": "2026-01-02T03:04:05"},  # no zone
            {"ce_time": "0001-01-01T00:00:00+23:59"},  # before the first moment of UTC
            {"ce_time": "9999-12-31T23:59:59-23:59"},
            {"ce_actor": None},
            {"ce_actor": "a\x00b"},
            {"ce_actor": "x" * 257},
            {"ce_actor": "é"},
            {"ce_credential": "x" * 10_000},
            {"ce_subject": None},
            {"ce_subject": "a\nb"},
            {"ce_requestid": "\udcff"},
            {"traceparent": "x" * 257},
        ],
        ids=repr,
    )
    def test_what_is_no_event_is_refused(self, changed: dict[str, str | None]) -> None:
        with pytest.raises((ValueError, KeyError)):
            announced(arrived(an_event(), **changed))

    def test_a_message_without_headers_is_none(self) -> None:
        with pytest.raises(KeyError):
            announced(SimpleNamespace(subject=f"evt.{PERSON}.auth.x", headers=None, data=b"{}"))  # type: ignore[arg-type]
