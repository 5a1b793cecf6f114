"""Refusals over HTTP: problem details (RFC 9457). No other module has statuses."""

import orjson

from causeloop_common.errors import AppError

STATUS: dict[str, tuple[int, str]] = {
    "validation_error": (422, "Invalid fields"),
    "malformed": (400, "Malformed request"),
    "headers_too_large": (431, "Headers too large"),
    "payload_too_large": (413, "Payload too large"),
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


def problem(error: AppError, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an error's answer."""
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
    headers = [(b"content-type", MEDIA_TYPE), (b"content-length", str(len(content)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="causeloop"'))
    return status, headers, content
