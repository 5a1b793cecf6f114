"""The errors that callers receive.

    AppError                     code                      the caller can
    ├── InvalidInput             validation_error          correct the fields named in `fields`
    ├── Malformed                malformed                 correct the request's form
    ├── HeadersTooLarge          headers_too_large         send less
    ├── PayloadTooLarge          payload_too_large         send less
    ├── UnsupportedMediaType     unsupported_media_type    send plain JSON, not compressed
    ├── Unauthorized             unauthorized              sign in again
    ├── InvalidGrant             invalid_grant             sign in again from the start
    ├── Forbidden                forbidden                 ask an administrator
    ├── MfaRequired              mfa_required              step up
    ├── NotFound                 not_found                 check the id; another tenant's thing is not found
    ├── MethodNotAllowed         method_not_allowed        use a method the address offers
    ├── Conflict                 conflict                  read again and decide
    ├── IdempotencyMismatch      idempotency_mismatch      use a new key for a new request
    ├── IdempotencyInProgress    idempotency_in_progress   wait for the first one
    ├── SecretAlreadyShown       secret_already_shown      make a new one; the error has the id
    ├── RateLimited              rate_limited              wait
    ├── AuditUnavailable         audit_unavailable         try again: the act could not be recorded, so it was not done
    ├── Unavailable              unavailable               try again: nothing was done
    ├── Timeout                  timeout                   try again with the same Idempotency-Key: outcome unknown
    └── Internal                 internal_error            report it with the trace id

Codes are stable and cross the bus with their sentence; HTTP statuses exist only in the gateway. No refusal is large
because a request was: of wrong fields at most 25 are named, in 3 KiB, and the sentence has their count.
"""

from typing import ClassVar, Self

import orjson

NAMED_FIELDS = 25
"""At most so many wrong fields are named."""
_NAMED_BYTES = 3 * 1024
_NAME_CHARS = 64
_REASON_CHARS = 300


class AppError(Exception):
    """A refusal that reaches the caller: a stable `code` and a full sentence with what to do next."""

    code: ClassVar[str]

    def __init__(
        self, detail: str, *, fields: dict[str, list[str]] | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields
        self.retry_after = retry_after

    @classmethod
    def from_wire(
        cls, code: str, detail: str, fields: dict[str, list[str]] | None, retry_after: int | None
    ) -> "AppError":
        """The error that another service answered; a code this version does not know becomes `Internal`."""
        kind = _BY_CODE.get(code, Internal)
        return kind(detail, fields=fields, retry_after=retry_after)

    @classmethod
    def kinds(cls) -> list[type["AppError"]]:
        """Every error of the tree, in the order of the drawing above."""
        return [*_BY_CODE.values()]


class InvalidInput(AppError):
    """Fields of the request are wrong; `fields` names them with their reasons, as many as a refusal may name."""

    code = "validation_error"

    def __init__(
        self, detail: str, *, fields: dict[str, list[str]] | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(detail, fields=fields and _bounded(fields), retry_after=retry_after)

    @classmethod
    def of(cls, /, **fields: str) -> Self:
        """One reason per field; a field may have any name, `cls` included."""
        return cls.named({name: [reason] for name, reason in fields.items()}, len(fields))

    @classmethod
    def named(cls, fields: dict[str, list[str]], count: int) -> Self:
        """The refusal of `count` wrong fields, of which some may be left out here already."""
        error = cls("The request has invalid fields; see 'errors'.", fields=fields)
        if error.fields and (shown := len(error.fields)) < count:
            error.detail = f"The request has {count} invalid fields; 'errors' names {shown} of them."
        return error


def _bounded(fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """The first fields, as many as a refusal may name, each cut to a length that people read."""
    shown: dict[str, list[str]] = {}
    left = _NAMED_BYTES
    for name, reasons in fields.items():
        one = name[:_NAME_CHARS], [reason[:_REASON_CHARS] for reason in reasons[:3]]
        left -= len(orjson.dumps(one))
        if len(shown) == NAMED_FIELDS or (shown and left < 0):
            break
        shown[one[0]] = one[1]
    return shown


class Malformed(AppError):
    """The request cannot be read at all."""

    code = "malformed"


class HeadersTooLarge(AppError):
    """The request's headers are larger than the gateway accepts."""

    code = "headers_too_large"


class PayloadTooLarge(AppError):
    """A body, message or event is larger than its limit."""

    code = "payload_too_large"


class UnsupportedMediaType(AppError):
    """The body is of another type than JSON in UTF-8, or compressed."""

    code = "unsupported_media_type"


class Unauthorized(AppError):
    """There is no valid credential."""

    code = "unauthorized"


class InvalidGrant(AppError):
    """A subject token or refresh token is not, or no longer, good."""

    code = "invalid_grant"


class Forbidden(AppError):
    """The credential is good and does not allow this. `permission` is the one that it lacks, where one does."""

    code = "forbidden"
    permission: str | None = None

    @staticmethod
    def lacking(permission: str, hint: str = " Ask an administrator of the workspace.") -> "Forbidden":
        """The refusal of a caller without this permission; `hint` begins with a space."""
        error = Forbidden(f"This needs the permission '{permission}'.{hint}")
        error.permission = permission
        return error


class MfaRequired(AppError):
    """The act needs a session that was stepped up."""

    code = "mfa_required"


class NotFound(AppError):
    """Not there, or another tenant's: the caller cannot distinguish them."""

    code = "not_found"


class MethodNotAllowed(AppError):
    """The address exists, the method does not; `allowed` are those that do."""

    code = "method_not_allowed"
    allowed: tuple[str, ...] = ()

    @staticmethod
    def but(*allowed: str) -> "MethodNotAllowed":
        """The refusal at an address that takes these methods."""
        error = MethodNotAllowed(f"The address takes {', '.join(allowed)} alone. The API is described at /docs.")
        error.allowed = allowed
        return error


class Conflict(AppError):
    """The state is not what the request assumed."""

    code = "conflict"


class IdempotencyMismatch(AppError):
    """The Idempotency-Key was used with another request."""

    code = "idempotency_mismatch"


class IdempotencyInProgress(AppError):
    """The first request with this Idempotency-Key is still running."""

    code = "idempotency_in_progress"


class SecretAlreadyShown(AppError):
    """The request was done before and its answer showed a secret, which is shown once."""

    code = "secret_already_shown"


class RateLimited(AppError):
    """Too many requests; `retry_after` has the seconds to wait."""

    code = "rate_limited"


class AuditUnavailable(AppError):
    """The act could not be recorded, so it was not done."""

    code = "audit_unavailable"


class Unavailable(AppError):
    """Nothing was done: no connection, no responder, a full queue, or too late."""

    code = "unavailable"

    def __init__(self, detail: str, *, fields: dict[str, list[str]] | None = None, retry_after: int | None = 1) -> None:
        super().__init__(detail, fields=fields, retry_after=retry_after)


class ClocksApart(Unavailable):
    """The clocks of two services are too far apart to rely on deadlines and tokens between them; nothing was done."""


class Timeout(AppError):
    """Something was started and no answer came: the outcome is unknown."""

    code = "timeout"


class Internal(AppError):
    """A surprise; the log has the cause under the trace id."""

    code = "internal_error"


_BY_CODE: dict[str, type[AppError]] = {kind.code: kind for kind in AppError.__subclasses__()}
