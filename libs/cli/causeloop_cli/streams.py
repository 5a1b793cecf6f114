"""The one place that makes streams and consumers: the operator's credential, the declarations of the contracts.

A stream or consumer as declared is left alone; another one is brought to the declaration where the server permits it.
`differences` only compares, with any credential: the operator's sees everything, a service's its own.
"""

import asyncio
import binascii
import os
import socket
import ssl
from typing import Any

import nats
import nats.errors
import nats.js.errors
import nkeys
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
    SubjectTransform,
)

from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import Consumer, Stream
from causeloop_common.keys import reader_seed
from causeloop_common.messaging import space
from causeloop_common.messaging.server import Rights, unfit
from causeloop_common.settings import SettingsError, require_bus_url

FAULTS = (OSError, TimeoutError, nats.errors.Error)
"""The faults of a bus and of the way to it; `refusal` has a sentence for each."""
_CONNECT_SECONDS = 12


async def declare(url: str, operator_seed: str) -> None:
    """Make or adjust every stream and consumer. SettingsError if the server is not fit for our messages."""
    client = await connect(url, topology.OPERATOR, operator_seed)
    try:
        if (lack := unfit(client)) is not None:
            raise SettingsError(lack)
        stream = client.jetstream(timeout=10)
        for declared in topology.STREAMS:
            await _stream(stream, declared)
        for consumer in topology.CONSUMERS:
            info = await stream.add_consumer(consumer.stream, _consumer_config(consumer))
            if info.paused:
                await stream.resume_consumer(consumer.stream, consumer.name)
    finally:
        await client.close()


async def differences(url: str, name: str, seed: str) -> dict[str, str]:
    """Server, permissions, every stream, and each consumer that the credential `name` reads: 'ok', or what is wrong."""
    client = await connect(url, name, seed)
    found = {"server": unfit(client) or "ok"}
    rights = Rights(name)
    try:
        await rights.ask(client)
        found["permissions"] = rights.lack or "ok"
        stream = client.jetstream(timeout=5, prefix=topology.api(name))
        infos = await stream.streams_info()
        there = {str(info.config.name): info.config for info in infos}
        for declared in topology.STREAMS:
            found[f"stream {declared.name}"] = _stream_difference(there.pop(declared.name, None), declared)
        for stream_name, part in space.used(infos).items():
            found[f"space {stream_name}"] = space.lack(part) or "ok"
        letters = sum(info.state.messages for info in infos if info.config.name == topology.DEAD.name)
        found["dead letters"] = f"{letters} wait: `causeloop dead list` shows them." if letters else "ok"
        found |= {f"stream {other}": "It is not declared: remove it, or find out who made it." for other in there}
    finally:
        await client.close()
    return found | await _consumer_differences(url, name, seed)


async def _consumer_differences(url: str, name: str, seed: str) -> dict[str, str]:
    consumers = [one for one in topology.CONSUMERS if name in (topology.OPERATOR, one.service)]
    if name != topology.OPERATOR:
        name, seed = topology.reader(name), reader_seed(seed)
    client = await connect(url, name, seed)
    try:
        stream = client.jetstream(timeout=5, prefix=topology.api(name))
        return {f"consumer {one.name}": await _consumer_difference(stream, one) for one in consumers}
    finally:
        await client.close()


def _stream_difference(found: StreamConfig | None, declared: Stream) -> str:
    if found is None:
        return "It is missing: run `causeloop migrate`."
    fields = (
        "subjects", "retention", "storage", "discard", "max_age", "max_bytes", "max_msg_size", "duplicate_window",
        "deny_delete", "subject_transform",
    )  # fmt: skip
    return _difference(_stream_config(declared), found, fields)


async def _consumer_difference(stream: JetStreamContext, declared: Consumer) -> str:
    try:
        info = await stream.consumer_info(declared.stream, declared.name)
    except nats.js.errors.NotFoundError:
        return "It is missing: run `causeloop migrate`."
    if info.paused:
        return "It is paused, and delivers nothing. Run `causeloop migrate`."
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


async def connect(url: str, name: str, seed: str) -> Client:
    """A connection to the bus with the credential `name`. SettingsError names what keeps it from connecting."""
    require_bus_url(url, os.environ)
    failures: asyncio.Queue[Exception] = asyncio.Queue()

    async def connecting() -> Client:
        authority = os.environ.get("NATS_CA_FILE")
        return await nats.connect(
            url,
            nkeys_seed_str=seed,
            inbox_prefix=topology.inbox(name),
            connect_timeout=5,
            allow_reconnect=False,
            error_cb=failures.put,
            **({"tls": ssl.create_default_context(cafile=authority)} if authority else {}),
        )

    async def failing() -> Exception:
        """The client would try for ever: it is given one try."""
        return await failures.get()

    tasks = asyncio.create_task(connecting()), asyncio.create_task(failing())
    try:
        await asyncio.wait(tasks, timeout=_CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            client = tasks[0].result()
            if name == topology.OPERATOR:
                await _is_operators(client, tasks[1])
            return client
        raise tasks[1].result() if tasks[1].done() else TimeoutError
    except (*FAULTS, nkeys.NkeysError, ValueError) as error:
        raise SettingsError(refusal(error, name)) from error
    finally:
        for task in tasks:
            task.cancel()


async def _is_operators(client: Client, failing: asyncio.Task[Exception]) -> None:
    """Ask the server what only the operator may ask; SettingsError if it refuses, which it answers by no reply."""
    asking = asyncio.create_task(client.jetstream(timeout=5).account_info())
    await asyncio.wait((asking, failing), return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    if failing.done() and "permissions violation" in str(failing.result()).lower():
        await client.close()
        raise SettingsError(
            "NATS_NKEY_SEED_OPERATOR is another credential than the operator's: the bus at NATS_URL does not "
            "let it act on streams."
        )


def refusal(error: BaseException, name: str = topology.OPERATOR) -> str:
    """Why the bus cannot be used with the credential `name`, as a sentence that names the setting; no seed is in it."""
    seed = f"NATS_NKEY_SEED_{name.removesuffix('_reader').upper()}"
    if isinstance(error, nkeys.NkeysError | binascii.Error):
        return f"{seed} is not the seed of a user's nkey (SU…): `causeloop keys --nats seeds` makes them."
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"NATS_CA_FILE does not name the authority of the bus's certificate ({error.verify_message})."
    if isinstance(error, ssl.SSLError):
        return "NATS_CA_FILE is no PEM file of certificates, or the bus at NATS_URL fails in TLS."
    if isinstance(error, nats.errors.AuthorizationError) or "authorization" in str(error).lower():
        return f"The bus at NATS_URL refuses the credential: {seed} and the server's configuration differ."
    if isinstance(error, socket.gaierror):
        return "The name of the host in NATS_URL cannot be resolved."
    if isinstance(error, FileNotFoundError):
        return "NATS_CA_FILE names a file that is not there."
    if isinstance(error, ConnectionRefusedError):
        return "Nothing listens at NATS_URL, such as nats://127.0.0.1:4222."
    if isinstance(error, TimeoutError | nats.errors.TimeoutError):
        return "The bus at NATS_URL does not answer in time."
    if isinstance(error, ValueError) or "invalid" in str(error):
        return "NATS_URL is no address such as tls://nats.example.com:4222."
    return f"The bus at NATS_URL does not let it in, or was lost: {type(error).__name__}."


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
        max_msg_size=declared.max_message_bytes,
        duplicate_window=declared.duplicate_window_seconds,
        deny_delete=True,
        subject_transform=(
            SubjectTransform(src=declared.published_as, dest=declared.stored_as) if declared.stored_as else None
        ),
        allow_rollup_hdrs=False,
    )


def _consumer_config(consumer: Consumer) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=consumer.name,
        ack_policy=AckPolicy.ALL if consumer.ack_all else AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=consumer.ack_wait_seconds,
        max_ack_pending=consumer.max_ack_pending,
        filter_subjects=list(consumer.subjects) if len(consumer.subjects) > 1 else None,
        filter_subject=consumer.subjects[0] if len(consumer.subjects) == 1 else None,
    )
