"""One HTTP request, and the limits it has to keep."""

import asyncio
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

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
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]*)(?::[0-9]*)?")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ONCE = frozenset(
    {
        "authorization", "content-encoding", "content-length", "content-type", "host", "idempotency-key",
        "last-event-id", "origin", "traceparent", "user-agent", "x-request-id",
    }
)  # fmt: skip
"""Headers of which a request has one. Two readers of two, a proxy and this one, could take each another one."""


def _uncounted(_: int) -> None:
    """Count no bytes."""


class Inbound:
    """A request: its headers by lower-case name, its ids, its parameters and its body."""

    __slots__ = (
        "_receive",
        "_repeated",
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
        self._repeated = self._join() if len(headers) != len(scope["headers"]) else None
        self.answered: tuple[tuple[bytes, bytes], ...] = ()
        """Headers that the answer gets besides its own, a refusal's too."""
        given = headers.get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else ids.new("req")

    def check(self) -> None:
        """Malformed for a head that two readers could read in two ways."""
        if self._repeated is not None:
            raise Malformed(f"The request has several {self._repeated.title()} headers. Send one.")
        host, version = self.headers.get("host"), self.scope["http_version"]
        if version not in ("1.1", "1.0"):
            raise Malformed("The request names no version of HTTP that is taken here. Send HTTP/1.1.")
        if version == "1.0" and "transfer-encoding" in self.headers:
            raise Malformed("HTTP/1.0 has no Transfer-Encoding. Send HTTP/1.1.")
        if host is None and version == "1.1":
            raise Malformed("The request names no host. Send one Host header.")
        if host and _HOST.fullmatch(host) is None:
            raise Malformed("The Host header is no host: send a name or an address, with a port if need be.")
        if b"%" in self.scope["raw_path"]:
            _require_encoded(self.scope["raw_path"])

    def _join(self) -> str | None:
        """Join the lines of each header that has several; one of those that must have one line."""
        lines: dict[str, list[str]] = {}
        for name, value in self.scope["headers"]:
            lines.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        self.headers.update({name: ", ".join(values) for name, values in lines.items()})
        return next((name for name, values in lines.items() if len(values) > 1 and name in _ONCE), None)

    def idempotency_key(self) -> str | None:
        """The client's Idempotency-Key, which may stand in quotation marks; Malformed when it cannot be one."""
        key = self.headers.get("idempotency-key")
        if key is None:
            return None
        if len(key) > 1 and key[0] == key[-1] == '"':
            key = key[1:-1]  # as a string of RFC 9651, which the header's draft asks for
        if _IDEMPOTENCY_KEY.fullmatch(key) is None:
            raise Malformed("The Idempotency-Key must be 1 to 255 visible ASCII characters.")
        return key

    def parameters(self) -> dict[str, str]:
        """The query's parameters; each may be given once."""
        if not self.query:
            return {}
        try:
            if b"%" in self.query:
                _require_encoded(self.query)
            pairs = parse_qsl(self.query.decode("ascii"), keep_blank_values=True, max_num_fields=50, errors="strict")
        except ValueError as error:
            raise Malformed("The query string cannot be read.") from error
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidInput.of(**{name: "is given more than once" for name, _ in pairs if _counted(pairs, name) > 1})
        return found

    def refuse_body(self) -> None:
        """Malformed for a request with a body, where none is read."""
        headers = self.headers
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise Malformed("This request takes no body. Send its fields in the query.")

    async def body(self, most: int = BODY_BYTES, count: Callable[[int], None] = _uncounted) -> bytes:
        """The whole body; PayloadTooLarge over `most` bytes, Malformed when it does not arrive.

        `count` is given the bytes as they arrive, and may refuse them.
        """
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        if not getattr(getattr(self._receive, "__self__", None), "more_body", True):  # all of it came with the head
            message = await self._receive()
            if message["type"] == "http.request" and len(message["body"]) <= most:
                count(len(message["body"]))
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
                    count(len(chunk))
                    chunks.append(chunk)
        except TimeoutError as error:
            raise Malformed(f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from error
        return b"".join(chunks)

    def client_address(self, trusted_proxies: int) -> str:
        """The client's address as the last trusted proxy saw it, counted from the right."""
        peer = self.scope.get("client") or ("", 0)
        if trusted_proxies:
            seen = [part.strip() for part in self.headers.get("x-forwarded-for", "").split(",") if part.strip()]
            if len(seen) >= trusted_proxies:
                return seen[-trusted_proxies][:64]
        return str(peer[0])[:64]

    def scheme(self, trusted_proxies: int) -> str:
        """The scheme of the client's connection as trusted proxies name it: each its own, or the first for all."""
        seen = [part.strip() for part in self.headers.get("x-forwarded-proto", "").split(",") if part.strip()]
        return seen[-min(trusted_proxies, len(seen))].lower() if seen else ""


def _require_encoded(text: bytes) -> None:
    """Malformed unless each `%` is followed by two hex digits, and all of them are UTF-8."""
    try:
        if _BAD_ESCAPE.search(text) is None:
            unquote_to_bytes(text).decode()
            return
    except UnicodeDecodeError:
        pass
    raise Malformed("A % in the address is not followed by the hex digits of a UTF-8 character.")


def _counted(pairs: list[tuple[str, str]], name: str) -> int:
    return sum(1 for other, _ in pairs if other == name)


def _cut_short() -> Malformed:
    return Malformed("The request ended before its body did.")


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {most} bytes. Send less at once.")
