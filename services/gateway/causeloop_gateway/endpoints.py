"""One declaration per route: its method, path and command.

Permission, fields and reply stand in the command's contract. An `Endpoint` adds what only HTTP knows.
"""

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from causeloop_common.contracts.base import Command
from causeloop_common.contracts.lists import List
from causeloop_common.errors import AppError, AuditUnavailable
from causeloop_gateway.inbound import Inbound

RECORDED = AuditUnavailable("The act could not be recorded, so it was not done. Try again.")
"""The error of every act that is recorded in the log before it is answered."""

ANY = frozenset({"session", "token"})
SESSION = frozenset({"session"})
NONE: frozenset[str] = frozenset()

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Asked(enum.Enum):
    """The services that answer a route: the command's owner, the one that an id names, or every one that can."""

    OWNER = "owner"
    NAMED = "named"
    EVERY = "every"


@dataclass(frozen=True)
class Endpoint:
    """One route.

    method, path     the address below /v1; the path's parameters are fields of the command
    command          sent to its owner, whose reply is the answer
    status           of the answer
    credentials      kinds of tokens that may call; none for signing in
    from_client      fields that the gateway reads from the connection, given the number of trusted proxies; a client
                     cannot send them
    new_workspace    whether the command runs in a workspace whose id is made from the request
    unread           whether the fields are left to the command's owner, whose refusals are the same: for large bodies
    asked            the services that answer; it differs where several answer the same command
    text             the reply's field that is the whole answer to a client that prefers `text/plain`
    errors           one of each kind that the use case raises, besides those of every such route
    """

    method: str
    path: str
    command: type[Command[Any]]
    status: int = 200
    credentials: frozenset[str] = ANY
    from_client: Mapping[str, Callable[[Inbound, int], str | None]] = field(default_factory=dict)
    new_workspace: bool = False
    unread: bool = False
    asked: Asked = Asked.OWNER
    text: str | None = None
    errors: tuple[AppError, ...] = ()

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The command's fields in the path, in their order."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def other_fields(self) -> tuple[str, ...]:
        """The command's fields in the query or the body."""
        return tuple(name for name in self.command.fields() if name not in {*self.path_fields, *self.from_client})

    @property
    def is_list(self) -> bool:
        """Whether the answer is a page."""
        return issubclass(self.command, List)

    @property
    def takes_body(self) -> bool:
        """Whether the fields come in a body; else they come in the query."""
        return self.method in _CHANGING

    @property
    def keyed(self) -> bool:
        """Whether an Idempotency-Key has an effect."""
        return self.takes_body and self.command.keyed
