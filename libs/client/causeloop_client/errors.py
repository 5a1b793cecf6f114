"""The errors of a call.

ClientError
├── Problem        the gateway refused: switch on `code`
└── Unreachable    no answer, or not a whole one: whether the call was done is unknown
"""

import json

import httpx


class ClientError(Exception):
    """A call that was not answered as it should be."""


class Problem(ClientError):
    """A refusal (RFC 9457): a stable `code`, a `detail` with what to do next, `errors` with the reasons by field.

    `code` is empty when the answer is not one of a Causeloop gateway; `status` is 200 when it is the end of a stream.
    `trace_id` names the request to its operator; `retry_after` is in seconds.
    """

    def __init__(self, status: int, code: str, detail: str, errors: dict[str, list[str]] | None = None) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors or {}
        self.trace_id = ""
        self.retry_after: float | None = None

    def __str__(self) -> str:
        text = " ".join([self.detail, *(f"{name}: {', '.join(reasons)}." for name, reasons in self.errors.items())])
        return "".join(c if c.isprintable() else "?" for c in text)  # a terminal would obey the others

    @classmethod
    def of(cls, response: httpx.Response, body: bytes | bytearray) -> "Problem":
        """The refusal in an answer."""
        status, after = response.status_code, response.headers.get("retry-after", "")
        try:
            given = json.loads(body)
            errors = {str(name): [*map(str, reasons)] for name, reasons in (given.get("errors") or {}).items()}
            problem = cls(status, str(given["code"]), str(given["detail"]), errors)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            problem = cls(status, "", f"The gateway answered {status}, and not as a gateway does.")
        problem.trace_id = response.headers.get("x-request-id", "")
        problem.retry_after = float(after) if after.isascii() and after.isdigit() else None
        return problem


class Unreachable(ClientError):
    """No connection, a lost one, or an answer that is too slow or too large."""
