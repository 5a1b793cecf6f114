"""The events of the gateway: refusals. It answers no commands."""

from typing import Annotated

from pydantic import Field

from causeloop_common.contracts.base import Event, Timestamp

RETIRED: frozenset[str] = frozenset()

Operation = Annotated[str, Field(description="The operation that was refused, such as `put_secret`.")]
Code = Annotated[str, Field(description="The code of the refusal, such as `forbidden`.")]
Count = Annotated[int, Field(ge=1, description="How often it was refused.")]
Since = Annotated[Timestamp, Field(description="The beginning of the time that is summed up.")]


class AccessDenied(Event, target="principal"):
    """A principal was refused, summed per operation, code and minute."""

    principal: str = Field(description="The person or service that was refused.")
    operation: Operation
    code: Code
    count: Count
    since: Since


class SigninFailed(Event, target="operation"):
    """An unknown caller failed to sign in or to be recognised, summed per operation, code and minute."""

    operation: Operation
    code: Code
    count: Count
    since: Since
