"""An event as a service announces it, and as it arrives."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from causeloop_common import ids
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.messaging import event_headers

PERSON = ids.realm("https://issuer.test", "user_1")


def an_event(tenant: str = "", **changed: Any) -> Announced:
    honest = Announced(
        id=ids.new("evt"),
        tenant=tenant or ids.new("ws"),
        type="tenancy.member_added",
        occurred_at=datetime.now(UTC),
        actor=PERSON,
        credential=ids.new("ses"),
        on_behalf_of=ids.new("sva"),
        target=PERSON,
        request_id=ids.new("req"),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        data=MemberAdded(person_id=PERSON, role="owner").to_json(),
    )
    return honest._replace(**changed)


def arrived(event: Announced, *, subject: str | None = None, **headers: str | None) -> Any:
    """The event as a message, some headers changed, those that are None left out."""
    shown = {**event_headers(event), **{name.replace("_", "-"): value for name, value in headers.items()}}
    where = subject if subject is not None else f"evt.{event.tenant}.{event.type}"
    return SimpleNamespace(subject=where, headers={k: v for k, v in shown.items() if v is not None}, data=event.data)
