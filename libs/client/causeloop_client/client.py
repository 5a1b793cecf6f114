"""The clients: what `sending` and `stream` decide, done with httpx, once waiting and once with asyncio."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from typing import Generic, Self, TypeVar

import httpx

from causeloop_client import connections
from causeloop_client.call import Call, Item, List, Reply
from causeloop_client.errors import ClientError
from causeloop_client.sending import Answer, Sending
from causeloop_client.stream import Event, Following, Waiting

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class _Client(Generic[Http]):
    """A gateway's address and a token, which may be changed at any time; nothing prints it.

    `timeout` is in seconds, of silence. For `patience` seconds a call is sent again when nobody answers, or the gateway
    answers 429, 502, 503 or 504; one that takes an Idempotency-Key gets one then. 0 sends it once. Proxy and
    certificate authorities are those of the environment (`connections`). `http` brings your own connections, which stay
    yours to close. ValueError for an address, or a variable of the environment, that cannot be used.
    """

    _kind: type[Http]

    def __init__(
        self, url: str, token: str = "", *, timeout: float = 30.0, patience: float = 0.0, http: Http | None = None
    ) -> None:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("The address has a user in it, and errors would show the password. Give a token instead.")
        self.url = url.rstrip("/")
        self.token = token
        self.timeout = timeout
        self.patience = patience
        self._is_ours = http is None
        self._http: Http = self._kind(**connections.arguments(self.url)) if http is None else http

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _headers(self) -> dict[str, str]:
        """Of every request. Nothing comes compressed, so that its size is known while it arrives."""
        if not self.token.isascii() or not self.token.isprintable():
            raise ValueError("The token has a character that no token has.")
        bearer = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return {"accept": "application/json", "accept-encoding": "identity", **bearer}


class Client(_Client[httpx.Client]):
    """A client that waits for its answers."""

    _kind = httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they were brought."""
        if self._is_ours:
            self._http.close()

    def send(self, call: Call[Reply], *, key: str | None = None) -> Reply:
        """The answer's body; Problem when it is a refusal, Unreachable when there is none. `key`: Idempotency-Key."""
        return self.answer(call, key=key).body

    def answer(self, call: Call[Reply], *, key: str | None = None) -> Answer[Reply]:
        """The whole answer, as `send`."""
        sending = Sending(call, key, self.url, self.timeout, self.patience)
        while True:
            try:
                with self._http.stream(**sending.request(self._headers())) as response:
                    for part in response.iter_bytes():
                        sending.take(part)
                return sending.answer(response)
            except (httpx.RequestError, ClientError) as error:
                seconds = sending.wait(error)
            time.sleep(seconds)

    def items(self, call: List[Item]) -> Generator[Item]:
        """Every item of a list, page by page."""
        cursor = call.cursor
        while True:
            page = self.send(replace(call, cursor=cursor))
            yield from page["data"]
            if (cursor := page["page"]["next_cursor"]) is None:
                return

    def follow(
        self,
        start: int | None = None,
        *,
        after: int | str | None = None,
        count: int | None = None,
        waiting: Waiting = None,
    ) -> Generator[Event]:
        """Every entry of the log, each once and in order, as it arrives, over as many connections as it takes.

        From the index `start` on, or after the id `after` of an entry, or from now on; `count` entries, or fewer when
        the log has no more. Problem when the gateway refuses to go on; Unreachable when nobody answers at the start, or
        when a `count` gets no entry for a minute. `waiting(seconds, failure)` is called before it connects again.
        """
        following = Following(self.url, self.patience, start, after, count, waiting)
        while not following.is_done():
            try:
                with self._http.stream(**following.request(self._headers())) as response:
                    following.opened(response)
                    for part in response.iter_bytes():
                        yield from following.feed(part)
                        if following.is_done():
                            return
            except (httpx.RequestError, ClientError) as error:
                seconds = following.wait(error)
            else:
                seconds = following.wait()
            time.sleep(seconds)


class AsyncClient(_Client[httpx.AsyncClient]):
    """The same with asyncio. To leave a `follow` early: `async with aclosing(client.follow()) as entries`."""

    _kind = httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless they were brought."""
        if self._is_ours:
            await self._http.aclose()

    async def send(self, call: Call[Reply], *, key: str | None = None) -> Reply:
        """As `Client.send`."""
        return (await self.answer(call, key=key)).body

    async def answer(self, call: Call[Reply], *, key: str | None = None) -> Answer[Reply]:
        """As `Client.answer`."""
        sending = Sending(call, key, self.url, self.timeout, self.patience)
        while True:
            try:
                async with self._http.stream(**sending.request(self._headers())) as response:
                    async for part in response.aiter_bytes():
                        sending.take(part)
                return sending.answer(response)
            except (httpx.RequestError, ClientError) as error:
                seconds = sending.wait(error)
            await asyncio.sleep(seconds)

    async def items(self, call: List[Item]) -> AsyncGenerator[Item]:
        """As `Client.items`."""
        cursor = call.cursor
        while True:
            page = await self.send(replace(call, cursor=cursor))
            for item in page["data"]:
                yield item
            if (cursor := page["page"]["next_cursor"]) is None:
                return

    async def follow(
        self,
        start: int | None = None,
        *,
        after: int | str | None = None,
        count: int | None = None,
        waiting: Waiting = None,
    ) -> AsyncGenerator[Event]:
        """As `Client.follow`."""
        following = Following(self.url, self.patience, start, after, count, waiting)
        while not following.is_done():
            try:
                async with self._http.stream(**following.request(self._headers())) as response:
                    following.opened(response)
                    async for part in response.aiter_bytes():
                        for event in following.feed(part):
                            yield event
                        if following.is_done():
                            return
            except (httpx.RequestError, ClientError) as error:
                seconds = following.wait(error)
            else:
                seconds = following.wait()
            await asyncio.sleep(seconds)
