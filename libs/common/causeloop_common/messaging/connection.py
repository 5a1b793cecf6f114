"""How a service connects to NATS: its own connection, and the one with which it reads its consumers."""

import asyncio
import logging
import socket
import ssl
import time
from contextlib import suppress
from typing import Any, ClassVar

import nats.errors
from faststream import AckPolicy
from faststream.nats import NatsBroker
from faststream.nats.security import NatsNKey, NatsSecurity
from nats.aio.client import Client
from nats.js import JetStreamContext
from pydantic import SecretStr

from causeloop_common.contracts import topology
from causeloop_common.errors import Unavailable
from causeloop_common.keys import reader_seed
from causeloop_common.messaging.server import Rights, is_final, is_refusal
from causeloop_common.messaging.tolerance import tolerate
from causeloop_common.settings import Settings, own_name

_log = logging.getLogger(__name__)

_PING_SECONDS = 0.3
"""A connection that leaves two pings unanswered is gone when the third is due: a silent cut is known after two to three
of these, within a second."""
_READER_PING_SECONDS = 0.5
"""Of a reader: it lies beside a connection that is pinged more often, and no revocation comes over it."""
_UNSENT_MILLISECONDS = 1000
_COMPLAINT_SECONDS = 5.0


def _broker(
    settings: Settings, name: str, seed: SecretStr | None, *, ping_seconds: float, **callbacks: Any
) -> NatsBroker:
    """A FastStream broker, not yet connected, for a credential: it reconnects for as long as it takes."""
    trusted = ssl.create_default_context(cafile=settings.nats_ca_file) if settings.nats_ca_file else None
    return NatsBroker(
        settings.nats_url,
        name=f"causeloop-{name}",
        inbox_prefix=topology.inbox(name),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,  # type: ignore[arg-type]
        connect_timeout=2,
        ping_interval=ping_seconds,  # type: ignore[arg-type]
        max_outstanding_pings=2,
        allow_reconnect=True,
        apply_types=False,
        logger=None,
        ack_policy=AckPolicy.MANUAL,
        js_options={"prefix": topology.STREAMS_API},
        security=(
            NatsNKey.from_seed(seed.get_secret_value(), ssl_context=trusted)
            if seed
            else NatsSecurity(ssl_context=trusted)
        ),
        **callbacks,
    )


class Connection:
    """A connection to NATS under one credential, for whose subjects it looks again whenever that is in doubt."""

    hint: ClassVar[str] = ""
    """The end of the sentence of a refused connection."""
    ping_seconds: ClassVar[float] = _PING_SECONDS

    def __init__(self, settings: Settings, name: str, seed: SecretStr | None) -> None:
        self.name = name
        variable = own_name("NATS_NKEY_SEED_{SERVICE}", settings.service)
        self._unknown = f"the server does not know {variable}" if seed else f"{variable} is not set"
        self.broker = _broker(
            settings,
            name,
            seed,
            ping_seconds=self.ping_seconds,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._connected,
            error_cb=self._failed,
            closed_cb=self._closed,
        )
        self._ended = asyncio.Event()
        self._rights = Rights(name)
        self._client: Client | None = None
        self._logged_at: dict[type[Exception], float] = {}

    async def connect(self) -> None:
        """Connect; `Unavailable` when the server cannot be reached, refuses, or lacks what `check` looks for."""
        try:
            self._client = await asyncio.wait_for(self.broker.connect(), timeout=5)
        except (OSError, nats.errors.Error, TimeoutError) as error:
            why = self._unknown if "authorization" in str(error).lower() else type(error).__name__
            raise Unavailable(f"NATS does not let {self.name} in: {why}.{self.hint}") from error
        tolerate(self._client)
        await self._rights.ask(self._client)
        self.check()
        await self._connected()

    def check(self) -> None:
        """`Unavailable` unless connected to a server that permits every subject we need."""
        self._rights.refresh(self.client)
        if self._rights.lack is not None:
            raise Unavailable(self._rights.lack)

    async def ended(self) -> None:
        """Wait until the connection has ended for good, without `close`: the client does not connect again."""
        await self._ended.wait()

    async def close(self) -> None:
        """Send what is waiting and disconnect."""
        self._rights.close()
        client, self._client = self._client, None
        if client is not None:
            with suppress(nats.errors.Error, OSError, TimeoutError):
                if client.is_connected:
                    await asyncio.wait_for(client.flush(), timeout=2)
            with suppress(nats.errors.Error, OSError, TimeoutError):
                await self.broker.stop()

    @property
    def is_connected(self) -> bool:
        """Whether a message would leave now."""
        return self._client is not None and self._client.is_connected

    @property
    def client(self) -> Client:
        """The NATS connection; `Unavailable` while there is none."""
        if self._client is None or not self._client.is_connected:
            raise Unavailable("The message bus cannot be reached. Nothing was done; try again.")
        return self._client

    def jetstream(self) -> JetStreamContext:
        """JetStream on this connection: the requests that its credential may send."""
        return self.client.jetstream(timeout=5, prefix=topology.STREAMS_API)

    async def _connected(self) -> None:
        if self._client is not None:
            _give_up_unsent(self._client)
            self._rights.doubt(self._client)

    async def _closed(self) -> None:
        """The library gives up where the server refuses the credential or a limit, and never tries again."""
        if self._client is not None and not self._ended.is_set():
            _log.error("bus, %s: the server ended the connection for good", self.name)
            self._ended.set()

    async def _disconnected(self) -> None:
        """Nothing is lost with the connection but the connection."""

    async def _failed(self, error: Exception) -> None:
        if self._client is not None and is_refusal(error):
            self._rights.doubt(self._client)
        if is_final(error):
            await self._closed()
        if self.is_connected and self._is_news(error):
            _log.warning("bus, %s: %s: %s", self.name, type(error).__name__, error)

    def _is_news(self, error: Exception) -> bool:
        """Whether no error of this kind was logged a moment ago: each message that is dropped is one."""
        now = time.monotonic()
        if now - self._logged_at.get(type(error), float("-inf")) < _COMPLAINT_SECONDS:
            return False
        self._logged_at[type(error)] = now
        return True


class Reader(Connection):
    """The connection to a service's consumers, in an account of its own: JetStream delivers what is pulled to whatever
    subject the asker names, and in that account no subject leads further.
    """

    hint = " The server's configuration may be older than this version."
    ping_seconds = _READER_PING_SECONDS

    def __init__(self, settings: Settings) -> None:
        seed = settings.nats_nkey_seed
        own = SecretStr(reader_seed(seed.get_secret_value())) if seed else None
        super().__init__(settings, topology.reader(settings.service), own)


def _give_up_unsent(client: Client) -> None:
    """Let the kernel end a connection whose other side has taken nothing for so long.

    nats-py waits until everything is sent before it connects anew. To a host that is gone nothing is ever sent, and
    TCP alone waits for a quarter of an hour. (Linux only; elsewhere it stays with that.)
    """
    if client._transport is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        wire = client._transport._io_writer.get_extra_info("socket")  # type: ignore[attr-defined]
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MILLISECONDS)
