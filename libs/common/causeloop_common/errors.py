"""The errors that callers receive.

    AppError                     code                      the caller can
    ├── InvalidInput             validation_error          correct the fields named in `fields`
    ├── Malformed                malformed                 correct the request's form
    ├── HeadersTooLarge          headers_too_large         send less
    ├── PayloadTooLarge          payload_too_large         send less
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

Codes are stable and cross the bus with their sentence; HTTP statuses exist only in the gateway.
"""

from typing import ClassVar, Self


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
    """Fields of the request are wrong; `fields` names each with its reasons."""

    code = "validation_error"

    @classmethod
    def of(cls, /, **fields: str) -> Self:
        """One reason per field; a field may have any name, `cls` included."""
        return cls("The request has invalid fields; see 'errors'.", fields={k: [v] for k, v in fields.items()})


class Malformed(AppError):
    """The request cannot be read at all."""

    code = "malformed"


class HeadersTooLarge(AppError):
    """The request's headers are larger than the gateway accepts."""

    code = "headers_too_large"


class PayloadTooLarge(AppError):
    """A body, message or event is larger than its limit."""

    code = "payload_too_large"


class Unauthorized(AppError):
    """There is no valid credential."""

    code = "unauthorized"


class InvalidGrant(AppError):
    """A subject token or refresh token is not, or no longer, good."""

    code = "invalid_grant"


class Forbidden(AppError):
    """The credential is good and does not allow this."""

    code = "forbidden"


class MfaRequired(AppError):
    """The act needs a session that was stepped up."""

    code = "mfa_required"


class NotFound(AppError):
    """Not there, or another tenant's: the caller cannot distinguish them."""

    code = "not_found"


class MethodNotAllowed(AppError):
    """The address exists, the method does not."""

    code = "method_not_allowed"


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


class Timeout(AppError):
    """Something was started and no answer came: the outcome is unknown."""

    code = "timeout"


class Internal(AppError):
    """A surprise; the log has the cause under the trace id."""

    code = "internal_error"


_BY_CODE: dict[str, type[AppError]] = {kind.code: kind for kind in AppError.__subclasses__()}
