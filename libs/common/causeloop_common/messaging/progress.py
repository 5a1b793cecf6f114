"""How long the oldest event of a consumer has been waiting to be handled, by what the server knows of it."""

import time

import nats.js.errors
from nats.js.api import ConsumerInfo

from causeloop_common.contracts.topology import Consumer
from causeloop_common.errors import Unavailable
from causeloop_common.messaging.connection import Reader


class WrongConsumer(Unavailable):
    """The consumer is missing, or delivers other events than it should."""


async def consumer_state(reader: Reader, consumer: Consumer) -> ConsumerInfo:
    """A consumer as the server has it; WrongConsumer if it is not as it should be, `Unavailable` without the bus."""
    try:
        info: ConsumerInfo = await reader.jetstream().consumer_info(consumer.stream, consumer.name)
    except nats.js.errors.NotFoundError as error:
        raise WrongConsumer(f"The consumer {consumer.name} is missing. Run `causeloop migrate`.") from error
    if {info.config.filter_subject, *(info.config.filter_subjects or ())} - {None} != set(consumer.subjects):
        raise WrongConsumer(f"The filter of the consumer {consumer.name} was changed. Run `causeloop migrate`.")
    return info


class Progress:
    """Looks at one consumer again and again.

    A look shows how far the consumer's events are handled, and how far they reach. When what was their end at an
    earlier look is handled, the next look begins to count anew.
    """

    def __init__(self, reader: Reader, consumer: Consumer) -> None:
        self._reader = reader
        self._consumer = consumer
        self._seen = 0
        self._seen_at: float | None = None

    async def waiting(self) -> float:
        """The seconds for which an event has been waiting that was there at an earlier look; 0 without one.

        Raises what `consumer_state` raises.
        """
        info = await consumer_state(self._reader, self._consumer)
        assert info.delivered is not None  # noqa: S101  a consumer has both
        assert info.ack_floor is not None  # noqa: S101
        if not info.num_pending and not info.num_ack_pending:
            self._seen_at = None
            return 0.0
        if self._seen_at is None or info.ack_floor.stream_seq >= self._seen:
            self._seen, self._seen_at = info.delivered.stream_seq + (info.num_pending or 0), time.monotonic()
        return time.monotonic() - self._seen_at
