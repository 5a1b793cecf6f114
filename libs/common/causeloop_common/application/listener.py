"""An HTTP server in a process that handles its signals itself."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from causeloop_common.settings import SettingsError

_log = logging.getLogger(__name__)

GRACE_SECONDS = 8.0


class Listener(uvicorn.Server):
    """An HTTP server in a process that handles its signals itself."""

    _ending: Sequence[Callable[[], None]] = ()
    """Called when it begins to stop: to end the answers that would not end by themselves."""

    delay = 0.0
    """Seconds from the signal to stop until the port closes; meanwhile everything is served, and `/ready` is 503."""

    setting = "CAUSELOOP_OPS_PORT or CAUSELOOP_OPS_HOST"
    """The variables that name the address."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._leave = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        """Whether it is to stop."""
        return self._leave.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        (self._leave.set if value else self._leave.clear)()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; SettingsError where that is not possible, which uvicorn would end the process for, without a word."""
        if sockets is None:
            host, port = self.config.host, self.config.port
            try:
                probe = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
            except OSError as error:
                known = error.errno is not None and error.errno > 0
                why = os.strerror(error.errno) if known and error.errno else error.strerror
                raise SettingsError(
                    f"{self.setting} names {host}, port {port}, where nothing can listen here ({why}): name an address "
                    "of this host, and a free port."
                ) from error
            probe.close()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Serve until it is to stop. uvicorn's own looks ten times a second, for limits that nobody sets."""
        await self._leave.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, and wait for what runs."""
        for end in self._ending:
            end()
        await super().shutdown(sockets)

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        """Log the addresses; uvicorn's own line is for a terminal."""
        for one in listeners:
            host, port = one.getsockname()[:2]
            _log.info("listening on %s, port %d", host, port)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave signals to `run`."""
        yield

    @classmethod
    def on(
        cls,
        app: Any,
        host: str,
        port: int,
        *,
        ending: Sequence[Callable[[], None]] = (),
        delay: float = 0.0,
        setting: str = "",
        **more: Any,
    ) -> "Listener":
        """A listener for an ASGI app with our settings.

        `ending` is called when it begins to stop, which is `delay` seconds after the signal. `setting` names what the
        address comes from, if that is not the operations' own.
        """
        made = cls(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(GRACE_SECONDS),
                **more,
            )
        )
        made._ending = ending
        made.delay = delay
        made.setting = setting or cls.setting
        return made
