"""The traffic of a connection, as it is on the bus."""

import pytest
from nats.aio.msg import Msg

from causeloop_common.messaging import Bus


def overhear(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of this connection's commands and answers, from now on."""
    ask, bodies = bus._replies.ask, list[bytes]()

    async def asking(subject: str, body: bytes, headers: dict[str, str], seconds: float) -> Msg:
        message = await ask(subject, body, headers, seconds)
        bodies.extend((body, message.data))
        return message

    monkeypatch.setattr(bus._replies, "ask", asking)
    return bodies
