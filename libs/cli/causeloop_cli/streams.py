"""The one place that makes streams and consumers: the operator's credential, the declarations of the contracts.

A stream or consumer as declared is left alone; another one is brought to the declaration where the server permits it.
`differences` only compares, with any credential: the operator's sees everything, a service's its own.
"""

import os
import ssl
from typing import Any

import nats
import nats.js.errors
from nats.aio.client import Client
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
from causeloop_common.settings import SettingsError


async def declare(url: str, operator_seed: str) -> None:
    """Make or adjust every stream and consumer. SettingsError if the server is too old for them."""
    client = await _connect(url, topology.OPERATOR, operator_seed)
    try:
        version = client.connected_server_version.major, client.connected_server_version.minor
        if version < topology.SERVER_VERSION:
            found, least = ("{}.{}".format(*pair) for pair in (version, topology.SERVER_VERSION))
            raise SettingsError(f"NATS_URL leads to a server of version {found}. Use version {least} or later.")
        stream = client.jetstream(timeout=10)
        for declared in topology.STREAMS:
            await _stream(stream, declared)
        for consumer in topology.CONSUMERS:
            await stream.add_consumer(consumer.stream, _consumer_config(consumer))
    finally:
        await client.close()


async def differences(url: str, name: str, seed: str) -> dict[str, str]:
    """Every stream and consumer that the credential `name` may look at: 'ok', or how it is not as declared."""
    client = await _connect(url, name, seed)
    allowed = topology.permissions(name).publish
    found = {}
    try:
        stream = client.jetstream(timeout=5)
        for declared in topology.STREAMS:
            if "$JS.API.>" in allowed or f"$JS.API.STREAM.INFO.{declared.name}" in allowed:
                found[f"stream {declared.name}"] = await _stream_difference(stream, declared)
        for consumer in topology.CONSUMERS:
            if "$JS.API.>" in allowed or f"$JS.API.CONSUMER.INFO.{consumer.stream}.{consumer.name}" in allowed:
                found[f"consumer {consumer.name}"] = await _consumer_difference(stream, consumer)
        if name == topology.OPERATOR:
            known = {declared.name for declared in topology.STREAMS}
            for info in await stream.streams_info():
                if info.config.name not in known:
                    found[f"stream {info.config.name}"] = "It is not declared: remove it, or find out who made it."
    finally:
        await client.close()
    return found


async def _stream_difference(stream: JetStreamContext, declared: Stream) -> str:
    try:
        info = await stream.stream_info(declared.name)
    except nats.js.errors.NotFoundError:
        return "It is missing: run `causeloop migrate`."
    fields = "subjects", "retention", "storage", "discard", "max_age", "max_bytes", "duplicate_window", "deny_delete"
    return _difference(_stream_config(declared), info.config, fields)


async def _consumer_difference(stream: JetStreamContext, declared: Consumer) -> str:
    try:
        info = await stream.consumer_info(declared.stream, declared.name)
    except nats.js.errors.NotFoundError:
        return "It is missing: run `causeloop migrate`."
    fields = "ack_policy", "deliver_policy", "ack_wait", "max_ack_pending", "filter_subject", "filter_subjects"
    return _difference(_consumer_config(declared), info.config, fields)


def _difference(declared: Any, found: Any, fields: tuple[str, ...]) -> str:
    """The drift in words; the server leaves out what is empty."""
    drift = [
        f"{field} is {getattr(found, field)}, declared {getattr(declared, field)}"
        for field in fields
        if (getattr(found, field) or None) != (getattr(declared, field) or None)
    ]
    return f"It is not as declared: {'; '.join(drift)}. Run `causeloop migrate`." if drift else "ok"


async def _connect(url: str, name: str, seed: str) -> Client:
    authority = os.environ.get("NATS_CA_FILE")
    more = {"tls": ssl.create_default_context(cafile=authority)} if authority else {}
    return await nats.connect(
        url,
        nkeys_seed_str=seed,
        inbox_prefix=topology.inbox(name),
        connect_timeout=5,
        allow_reconnect=False,
        **more,
    )


async def _stream(stream: JetStreamContext, declared: Stream) -> None:
    config = _stream_config(declared)
    try:
        await stream.stream_info(declared.name)
    except nats.js.errors.NotFoundError:
        await stream.add_stream(config)
    else:
        await stream.update_stream(config)


def _stream_config(declared: Stream) -> StreamConfig:
    return StreamConfig(
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
