"""JSON over HTTP to our own processes on the loopback: one request, one connection, no thread, no event loop.

The supervisor forks, and so may hold neither.
"""

import json
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """Status and decoded body (None where there is none)."""

    status: int
    body: Any


def ask(
    method: str, url: str, body: Any = None, *, token: str = "", key: str = "", timeout: float = 10.0
) -> Answer | None:
    """The answer; None when nobody answers, in time or in JSON. `key` is sent as Idempotency-Key."""
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if key:
        headers["Idempotency-Key"] = key
    if body is not None:
        headers["Content-Type"] = "application/json"
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)
    try:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        told = response.read()
        return Answer(response.status, json.loads(told) if told else None)
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
