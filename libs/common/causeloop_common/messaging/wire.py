"""How a command and its answer look on the bus: the names of their headers, the bound on their size, and refusals.

An error crosses as code and sentence (NATS ADR-32), with the fields of a validation in the body.
"""

from collections.abc import Mapping

import orjson
from pydantic import ValidationError

from causeloop_common.errors import AppError, InvalidInput, Unauthorized

TOKEN = "Causeloop-Token"  # noqa: S105  a header's name
DEADLINE = "Causeloop-Deadline"
REQUEST_ID = "Causeloop-Request-Id"
IDEMPOTENCY_KEY = "Causeloop-Idempotency-Key"
FINGERPRINT = "Causeloop-Fingerprint"
REPLAYED = "Causeloop-Replayed"
RETRY_AFTER = "Causeloop-Retry-After"
CLOCK = "Causeloop-Clock"
"""In the refusal of what is late or early by the receiver's clock: that clock, in milliseconds since the epoch."""
ERROR = "Nats-Service-Error"  # ADR-32
ERROR_CODE = "Nats-Service-Error-Code"
TRACEPARENT = "traceparent"

HEADROOM_BYTES = 16 * 1024
"""Of `max_payload`, for the protocol's own lines."""


def header_block(headers: Mapping[str, str]) -> bytes:
    """A message's header block (NATS ADR-4); ValueError when a value would begin a line of its own."""
    block = "\r\n".join(["NATS/1.0", *[f"{name}: {value}" for name, value in headers.items()], "\r\n"])
    if block.count("\n") != len(headers) + 2 or block.count("\r") != len(headers) + 2:
        raise ValueError("A header's value must be one line.")
    return block.encode()


def error_from(code: str, headers: dict[str, str], body: bytes) -> AppError:
    """The refusal in an answer."""
    fields = orjson.loads(body).get("fields") if body else None
    retry_after = headers.get(RETRY_AFTER)
    return AppError.from_wire(code, headers.get(ERROR, ""), fields, int(retry_after) if retry_after else None)


def label(subject: str, tenant: str) -> str:
    """The label bound to a sealed body: the subject it is sent to (`….reply` for an answer), and the tenant."""
    return f"{subject}:{tenant}"


def deadline(headers: dict[str, str]) -> int:
    """Milliseconds since the epoch after which a command is not executed; Unauthorized without one."""
    try:
        return int(headers[DEADLINE])
    except (KeyError, ValueError) as error:
        raise Unauthorized("The command carries no deadline.") from error


def invalid_input(error: ValidationError) -> InvalidInput:
    """A pydantic refusal as field → reasons; the values sent are not repeated."""
    fields: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"]) or "body"
        fields.setdefault(name, []).append(problem["msg"].removeprefix("Value error, "))
    return InvalidInput.named(fields, len(fields))
