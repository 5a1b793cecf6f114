"""Routers that give one answer to every command, and the vault's command, question and view for which they are used."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.base import Message
from causeloop_common.contracts.vault import GetSecret, PutSecret, SecretView
from causeloop_common.errors import AppError
from causeloop_common.messaging import Bus, CommandRouter

Connect = Callable[[str], Awaitable[Bus]]
Serve = Callable[..., Awaitable[Bus]]

CANARY = "s3cr3t-canary"
PUT = PutSecret.model_validate({"path": "a/b", "value": CANARY})
GET = GetSecret(path="a/b")
VIEW = SecretView(id=ids.new("sec"), path="a/b", version=1, created_at=datetime.now(UTC), updated_at=datetime.now(UTC))


def answering(*kinds: Any, reply: Message | AppError | Exception = VIEW) -> CommandRouter:
    """A router that gives one answer to every command."""
    return CommandRouter({kind: handler(kind, reply) for kind in kinds})


def handler(kind: Any, reply: Message | Exception) -> Any:
    """What gives one answer, under the name that the command asks for."""

    async def answer(ctx: AuthContext, command: Any) -> Message:
        if isinstance(reply, Exception):
            raise reply
        return reply

    answer.__name__ = kind.operation
    return answer
