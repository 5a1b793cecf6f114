"""The one place that makes streams and consumers: the operator's credential, the declarations of the contracts.

What is there and as declared is left alone; what differs is brought to the declaration where the server allows it.
Services only compare.
"""

import nats
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import Consumer, Stream


async def declare(url: str, operator_seed: str) -> None:
    """Make or adjust every stream and consumer."""
    client = await nats.connect(
        url, nkeys_seed_str=operator_seed, inbox_prefix=topology.inbox(topology.OPERATOR), connect_timeout=5
    )
    try:
        stream = client.jetstream(timeout=10)
        for declared in topology.STREAMS:
            await _stream(stream, declared)
        for consumer in topology.CONSUMERS:
            await stream.add_consumer(consumer.stream, _consumer_config(consumer))
    finally:
        await client.close()


async def _stream(stream: JetStreamContext, declared: Stream) -> None:
    config = StreamConfig(
        name=declared.name,
        subjects=list(declared.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=declared.max_age_seconds,
        max_bytes=declared.max_bytes,
        duplicate_window=declared.duplicate_window_seconds,
        deny_delete=True,
        allow_rollup_hdrs=False,
    )
    try:
        await stream.stream_info(declared.name)
    except nats.js.errors.NotFoundError:
        await stream.add_stream(config)
    else:
        await stream.update_stream(config)


def _consumer_config(consumer: Consumer) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=consumer.name,
        ack_policy=AckPolicy.ALL if consumer.ack_all else AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=consumer.ack_wait_seconds,
        max_ack_pending=consumer.max_ack_pending,
        filter_subjects=list(consumer.filters) if len(consumer.filters) > 1 else None,
        filter_subject=consumer.filters[0] if len(consumer.filters) == 1 else None,
    )
