"""Refusals over HTTP: problem details (RFC 9457). No other module has statuses."""

import orjson

from causeloop_common.context import STEP_UP_SECONDS
from causeloop_common.errors import AppError, Forbidden, MethodNotAllowed, MfaRequired, Unauthorized

STATUS: dict[str, tuple[int, str]] = {
    "validation_error": (422, "Invalid fields"),
    "malformed": (400, "Malformed request"),
    "headers_too_large": (431, "Headers too large"),
    "payload_too_large": (413, "Payload too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "unauthorized": (401, "Not signed in"),
    "invalid_grant": (401, "Grant not valid"),
    "forbidden": (403, "Not allowed"),
    "mfa_required": (403, "Second factor required"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflict"),
    "idempotency_mismatch": (422, "Idempotency-Key used before"),
    "idempotency_in_progress": (409, "First request still running"),
    "secret_already_shown": (409, "Secret already shown"),
    "rate_limited": (429, "Too many requests"),
    "audit_unavailable": (503, "Act could not be recorded"),
    "unavailable": (503, "Unavailable"),
    "timeout": (504, "No answer in time"),
    "internal_error": (500, "Internal error"),
}
"""Status and title of every code; a test compares it with the error tree."""

MEDIA_TYPE = b"application/problem+json"
LARGEST = 4096
"""Bytes of a refusal: no wrong request gets a large answer."""

_LONGEST_DETAIL = 500


def problem(
    error: AppError, request_id: str, *, presented: bool = False
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an error's answer. `presented`: the request had a bearer token."""
    status, title = STATUS[error.code]
    body: dict[str, object] = {
        "type": f"urn:causeloop:problem:{error.code}",
        "title": title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "trace_id": request_id,
    }
    if error.fields:
        body["errors"] = error.fields
    content = orjson.dumps(body)
    if len(content) > LARGEST:
        body["detail"] = error.detail[:_LONGEST_DETAIL]
        content = orjson.dumps(body)
    headers = [(b"content-type", MEDIA_TYPE), (b"content-length", str(len(content)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if status in (401, 403):
        headers.append((b"www-authenticate", _challenge(error, presented=presented)))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    return status, headers, content


def _challenge(error: AppError, *, presented: bool) -> bytes:
    """The challenge of RFC 6750 3: the reason too, to those who sent a token."""
    parts = ['Bearer realm="causeloop"']
    if isinstance(error, Unauthorized) and presented:
        parts.append('error="invalid_token"')
    elif isinstance(error, Forbidden):
        parts.append('error="insufficient_scope"')
        if error.permission is not None:
            parts.append(f'scope="{error.permission}"')
    elif isinstance(error, MfaRequired):  # RFC 9470 3
        parts.append(f'error="insufficient_user_authentication", max_age="{STEP_UP_SECONDS}"')
    return ", ".join(parts).encode()
