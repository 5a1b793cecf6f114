"""What the gateway announces: what it refused. It answers no commands."""

from typing import Annotated

from pydantic import Field

from causeloop_common.contracts.base import Event, Timestamp

RETIRED: frozenset[str] = frozenset()

Count = Annotated[int, Field(ge=1)]


class AccessDenied(Event, target="principal"):
    """A principal was refused, summed per operation, code and minute."""

    principal: str
    operation: str
    code: str
    count: Count
    since: Timestamp


class SigninFailed(Event, target="operation"):
    """Somebody unknown failed to sign in or to be recognised, summed per operation, code and minute."""

    operation: str
    code: str
    count: Count
    since: Timestamp
