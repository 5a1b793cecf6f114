"""One HTTP request, and the limits it has to keep."""

import asyncio
import re
from typing import Any
from urllib.parse import parse_qsl

from causeloop_common import ids
from causeloop_common.errors import InvalidInput, Malformed, PayloadTooLarge

BODY_BYTES = 1024 * 1024
ANONYMOUS_BODY_BYTES = 160 * 1024
"""The limit of a request without a token: two sealed tokens of 64 Ki characters fit."""
HEADER_BYTES = 32 * 1024
HEAD_SECONDS = 10.0
BODY_SECONDS = 15.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Inbound:
    """A request: its headers by lower-case name, its ids, its parameters and its body."""

    __slots__ = (
        "_receive",
        "answered",
        "headers",
        "method",
        "path",
        "query",
        "request_id",
        "scope",
    )

    def __init__(self, scope: Any, receive: Any) -> None:
        self.scope = scope
        self._receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.headers: dict[str, str] = headers
        self.answered: tuple[tuple[bytes, bytes], ...] = ()
        """Headers that the answer gets besides its own, a refusal's too."""
        given = headers.get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else ids.new("req")

    def idempotency_key(self) -> str | None:
        """The client's Idempotency-Key; Malformed when it cannot be one."""
        key = self.headers.get("idempotency-key")
        if key is not None and _IDEMPOTENCY_KEY.fullmatch(key) is None:
            raise Malformed("The Idempotency-Key must be 1 to 255 visible ASCII characters.")
        return key

    def parameters(self) -> dict[str, str]:
        """The query's parameters; each may be given once."""
        if not self.query:
            return {}
        try:
            pairs = parse_qsl(self.query.decode("ascii"), keep_blank_values=True, max_num_fields=50, errors="strict")
        except ValueError as error:
            raise Malformed("The query string cannot be read.") from error
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidInput.of(**{name: "is given more than once" for name, _ in pairs if _counted(pairs, name) > 1})
        return found

    async def body(self, most: int = BODY_BYTES) -> bytes:
        """The whole body; PayloadTooLarge over `most` bytes, Malformed when it does not arrive."""
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        if not getattr(getattr(self._receive, "__self__", None), "more_body", True):  # all of it came with the head
            message = await self._receive()
            if message["type"] == "http.request" and len(message["body"]) <= most:
                return bytes(message["body"])
            raise _too_large(most) if message["type"] == "http.request" else _cut_short()
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise _cut_short()
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    size += len(chunk)
                    if size > most:
                        raise _too_large(most)
                    chunks.append(chunk)
        except TimeoutError as error:
            raise Malformed(f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from error
        return b"".join(chunks)

    def client_address(self, trusted_proxies: int) -> str:
        """The client's address as the last trusted proxy saw it, counted from the right."""
        peer = self.scope.get("client") or ("", 0)
        if trusted_proxies:
            lines = [value for name, value in self.scope["headers"] if name == b"x-forwarded-for"]
            seen = [part.strip() for part in b",".join(lines).decode("latin-1").split(",") if part.strip()]
            if len(seen) >= trusted_proxies:
                return seen[-trusted_proxies][:64]
        return str(peer[0])[:64]


def _counted(pairs: list[tuple[str, str]], name: str) -> int:
    return sum(1 for other, _ in pairs if other == name)


def _cut_short() -> Malformed:
    return Malformed("The request ended before its body did.")


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {most} bytes. Send less at once.")
