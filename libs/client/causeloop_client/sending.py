"""A call from its first attempt to its answer, without I/O: the request, the answer's meaning, further attempts."""

import json
import random
import re
import ssl
import time
import uuid
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple

import httpx

from causeloop_client.call import Call, Reply
from causeloop_client.errors import ClientError, Problem, Unreachable

LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes; the gateway sends at most half of it."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_AGAIN = frozenset({429, 502, 503, 504})
_LONGEST_WAIT_SECONDS = 5.0


class Answer(NamedTuple, Generic[Reply]):
    """An answer. `is_replayed`: the first one to this Idempotency-Key, sent again."""

    body: Reply
    status: int
    request_id: str
    is_replayed: bool


class Sending(Generic[Reply]):
    """One call, sent again until it is answered, or `patience` seconds have passed."""

    def __init__(self, call: Call[Reply], key: str | None, url: str, timeout: float, patience: float) -> None:
        if key is not None and not call.takes_key:
            raise ValueError(f"{type(call).__name__} takes no Idempotency-Key.")
        if key is not None and _KEY.fullmatch(key) is None:
            raise ValueError("An Idempotency-Key is 1 to 255 visible ASCII characters.")
        self._call = call
        self._key = key or (str(uuid.uuid4()) if call.takes_key and patience else None)
        self._url = url
        self._timeout = timeout
        self._until = time.monotonic() + patience
        self._seconds = 0.1
        self._body = bytearray()

    def request(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """The next attempt, for `httpx.Client.stream`."""
        method, path, query, body = self._call.to_http()
        self._body.clear()
        key = {"idempotency-key": self._key} if self._key else {}
        return {
            "method": method, "url": self._url + path, "params": query, "json": body, "headers": {**headers, **key},
            "timeout": self._timeout, "follow_redirects": False,
        }  # fmt: skip

    def take(self, part: bytes) -> None:
        """The next part of the answer's body."""
        append(self._body, part)

    def answer(self, response: httpx.Response) -> Answer[Reply]:
        """The answer that was taken; Problem when it is a refusal, or none that a gateway gives."""
        if not response.is_success:
            raise Problem.of(response, self._body)
        try:
            body = json.loads(self._body or b"null")
        except (ValueError, RecursionError) as error:
            raise Problem.of(response, b"") from error
        if not self._call.is_reply(body):
            raise Problem.of(response, b"")
        headers = response.headers
        is_replayed = headers.get("idempotency-replayed") == "true"
        return Answer(body, response.status_code, headers.get("x-request-id", ""), is_replayed)

    def wait(self, error: httpx.RequestError | ClientError) -> float:
        """Seconds until the next attempt; the error when there is to be none."""
        failure = failed(self._url, error)
        self._seconds = seconds = min(self._seconds * 2, _LONGEST_WAIT_SECONDS)
        if isinstance(failure, Problem):
            if failure.status not in _AGAIN and failure.code != "idempotency_in_progress":
                raise failure
            seconds = failure.retry_after or seconds
        seconds = jittered(seconds)
        if time.monotonic() + seconds > self._until:
            raise failure from error
        return seconds


def append(body: bytearray, part: bytes) -> None:
    """The next part of a body; Unreachable when it becomes larger than an answer is."""
    body += part
    if len(body) > LARGEST_ANSWER:
        raise Unreachable("The answer is larger than a gateway's answer is.")


def failed(url: str, error: httpx.RequestError | ClientError) -> ClientError:
    """A failure in our words."""
    if isinstance(error, ClientError):
        return error
    return Unreachable(f"Nobody answers at {url}: {_cause(error)}.")


def _cause(error: BaseException) -> str:
    """The reason of a failure, half a sentence: in the words of the system where it gave some."""
    if isinstance(error, httpx.TimeoutException):
        return "there was no answer in time"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the answer is not HTTP, or was cut off"
    if isinstance(error, httpx.ProxyError):
        return f"the proxy refuses, {error}"
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted, {found.verify_message}: name its authority in SSL_CERT_FILE"
        if isinstance(found, OSError) and found.strerror:
            return re.sub(r" \(_ssl.*\)|^\[[^]]*\] ", "", found.strerror)
        found = found.__cause__ or found.__context__
    return type(error).__name__


def jittered(seconds: float) -> float:
    """Not all clients of a gateway at the same moment."""
    return seconds * random.SystemRandom().uniform(0.5, 1)
