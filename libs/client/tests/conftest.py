"""A gateway that is a script: each request gets the next of the prepared answers, and is kept.

Both clients run the same tests: `send`, `items` and `follow` drive either of them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, Self

import httpx
import pytest

from causeloop_client import AsyncClient, Client
from causeloop_client.stream import Event

Given = tuple[int, tuple[bytes | Exception, ...], dict[str, str]]
"""An answer: status, the body as it arrives, headers with `_` for `-`."""


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """In a loop of its own, which leaves that of the test run alone."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


class Parts(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in parts as they arrive; one that is an exception cuts the connection."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Script:
    """What the gateway answers, in this order; an exception is no answer. `waits` are the seconds waited between."""

    def __init__(self, kind: type[Client | AsyncClient], monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = "https://causeloop.example.com"
        self._kind = kind
        self._answers: list[Given | Exception] = []
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        for module in ("sending", "stream", "client"):
            monkeypatch.setattr(f"causeloop_client.{module}.time", clock)
        for module in ("sending", "stream"):
            monkeypatch.setattr(f"causeloop_client.{module}.jittered", lambda seconds: seconds)
        monkeypatch.setattr("causeloop_client.client.asyncio", SimpleNamespace(sleep=self._sleep_async))

    def answers(self, *answers: Given | Exception) -> Self:
        """Prepare more answers."""
        self._answers += answers
        return self

    def client(self, token: str = "a-token", **more: Any) -> Any:
        """A client of this gateway."""
        transport = httpx.MockTransport(self._handle)
        if self._kind is Client:
            return Client(self.url, token, http=httpx.Client(transport=transport), **more)
        return AsyncClient(self.url, token, http=httpx.AsyncClient(transport=transport), **more)

    def send(self, call: Any, *, key: str | None = None, token: str = "a-token", **more: Any) -> Any:
        """Send a call with a client of this gateway; the whole answer."""
        answer = self.client(token, **more).answer(call, key=key)
        return run(answer) if self._kind is AsyncClient else answer

    def all(self, ask: Callable[[Any], Any], found: list[Any]) -> list[Any]:
        """Everything that an iterator of a client gives; `found` keeps what came before an error."""

        async def gather() -> None:
            async for each in ask(self.client()):
                found.append(each)  # noqa: PERF401  an error must leave what came before

        if self._kind is AsyncClient:
            run(gather())
        else:
            for each in ask(self.client()):
                found.append(each)  # noqa: PERF402  the same
        return found

    def follow(self, *start: int, found: list[Event] | None = None, **more: Any) -> list[Event]:
        """Follow the log to its end."""
        return self.all(lambda client: client.follow(*start, **more), [] if found is None else found)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        given = self._answers.pop(0)
        if isinstance(given, Exception):
            raise given
        status, parts, headers = given
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Response(status, headers=named, stream=Parts(*parts))

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def _sleep_async(self, seconds: float) -> None:
        self._sleep(seconds)


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(request.param, monkeypatch)
