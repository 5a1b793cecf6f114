"""Refused acts, for the log: principal, operation and code, summed per minute.

One event per refusal would let anybody fill a tenant's log; a sum cannot. The gateway has no database: sums wait in
memory for at most a minute, and longer while the bus is away. Nothing personal is in them.
"""

import asyncio
import logging
from datetime import UTC, datetime
from typing import NamedTuple

import nats.errors
import nats.js.errors

from causeloop_common import ids, telemetry
from causeloop_common.contracts.announced import Announced, new_salt
from causeloop_common.contracts.base import Event
from causeloop_common.contracts.gateway import AccessDenied, SigninFailed
from causeloop_common.errors import AppError
from causeloop_common.messaging import Bus, event_headers

_log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
_MOST = 10_000
_RECORDED = frozenset({"unauthorized", "invalid_grant", "forbidden", "mfa_required"})


class Denial(NamedTuple):
    """One kind of refusal, which is counted; those of unknown callers in the installation's realm."""

    operation: str
    code: str
    tenant: str = ids.INSTALLATION
    principal: str | None = None
    credential: str | None = None
    on_behalf_of: str | None = None


class Denials:
    """Counts refusals and announces the sums."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._counts: dict[Denial, int] = {}
        self._since = datetime.now(UTC)

    def note(self, denial: Denial) -> None:
        """Count a refusal, if it is one that belongs in the log."""
        if denial.code not in _RECORDED:
            return
        if denial not in self._counts and len(self._counts) >= _MOST:
            denial = Denial("more than are counted apart", denial.code)
        self._counts[denial] = self._counts.get(denial, 0) + 1

    async def run(self) -> None:
        """Announce every minute until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Announce the sums; one that cannot be announced now stays counted, whatever interrupts."""
        began = datetime.now(UTC)
        for denial, count in list(self._counts.items()):
            try:
                await self._announce(denial, count, self._since)
            except (AppError, nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
                _log.warning("refusals wait to be announced: %s", type(error).__name__)
                return  # the next would fail too
            self._counts[denial] -= count
            if not self._counts[denial]:
                del self._counts[denial]
        self._since = began

    async def _announce(self, denial: Denial, count: int, since: datetime) -> None:
        event: Event
        if denial.principal is not None:
            event = AccessDenied(
                principal=denial.principal, operation=denial.operation, code=denial.code, count=count, since=since
            )
        else:
            event = SigninFailed(operation=denial.operation, code=denial.code, count=count, since=since)
        span = self._bus.tracer.start_span(f"evt.{event.type}", kind=telemetry.SpanKind.PRODUCER)
        announced = Announced(
            id=ids.new("evt"),
            tenant=denial.tenant,
            type=event.type,
            occurred_at=datetime.now(UTC),
            actor=denial.principal or "svc_gateway",
            credential=denial.credential,
            on_behalf_of=denial.on_behalf_of,
            target=event.target_id,
            traceparent=telemetry.traceparent(span),
            data=event.to_json(),
            salt=new_salt(),
        )
        subject = f"evt.{announced.tenant}.{announced.type}"
        with telemetry.working(span):
            await self._bus.jetstream().publish(subject, announced.data, headers=event_headers(announced))
