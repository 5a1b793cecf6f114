"""SDKs go the same way: httpx2's client, and the one of Anthropic, on our transport."""

import asyncio
import gzip
import json
from typing import TYPE_CHECKING

import httpx2
import pytest

from causeloop_common.outbound import Limits

if TYPE_CHECKING:
    from conftest import World

OPEN = {"OUTBOUND_TENANT_RANGES": "127.0.0.0/8", "OUTBOUND_HTTP": "all"}
HEAD = b"HTTP/1.1 200 OK\r\n"


class TestTransport:
    async def test_streams_an_answer(self, world: "World") -> None:
        go_on = asyncio.Event()

        async def stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD + b"Content-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await writer.drain()
            await go_on.wait()
            writer.write(b"data: 2\n\n")

        server = await world.serve(stream)
        async with (
            httpx2.AsyncClient(transport=world.operators().transport()) as http,
            http.stream("GET", f"http://127.0.0.1:{server.port}/") as response,
        ):
            lines = response.aiter_lines()
            assert await anext(lines) == "data: 1"
            go_on.set()
            assert [line async for line in lines if line] == ["data: 2"]

    async def test_unpacks_within_the_bound(self, world: "World") -> None:
        packed = gzip.compress(b"fine" * 1000)
        server = await world.serve(HEAD + b"Content-Encoding: gzip\r\n\r\n" + packed)
        async with httpx2.AsyncClient(transport=world.operators().transport()) as http:
            assert (await http.get(f"http://127.0.0.1:{server.port}/")).text == "fine" * 1000

    async def test_refuses_what_a_request_is_refused(self, world: "World") -> None:
        async with httpx2.AsyncClient(transport=world.tenants().transport()) as http:
            with pytest.raises(httpx2.ConnectError, match="it is a metadata address of a cloud"):
                await http.get("https://169.254.169.254/")

    async def test_follows_no_redirect_though_the_client_would(self, world: "World") -> None:
        inside = await world.serve()
        to = f"Location: http://127.0.0.1:{inside.port}/\r\n".encode()
        server = await world.serve(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + to + b"\r\n")
        async with httpx2.AsyncClient(transport=world.operators().transport(), follow_redirects=True) as http:
            with pytest.raises(httpx2.ReadError, match="redirects, and redirects are not followed"):
                await http.get(f"http://127.0.0.1:{server.port}/")
        assert inside.connections == 0

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(1_000_000)), httpx2.ReadError),
            (HEAD + b"Content-Length: 100\r\n\r\nhalf", httpx2.ReadError),
        ],
    )
    async def test_a_failure_amid_the_answer_is_one_that_sdks_know(
        self, world: "World", answer: bytes, kind: type[Exception]
    ) -> None:
        server = await world.serve(answer)
        async with httpx2.AsyncClient(transport=world.operators().transport()) as http:
            with pytest.raises(kind):
                await http.get(f"http://127.0.0.1:{server.port}/")

    async def test_a_late_answer_is_a_timeout_whatever_the_client_would_wait(self, world: "World") -> None:
        async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD + b"\r\n")
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.05)

        server = await world.serve(drip)
        async with httpx2.AsyncClient(transport=world.operators().transport(), timeout=None) as http:
            with pytest.raises(httpx2.ReadTimeout, match=r"does not answer completely within 0\.6 s"):
                await http.get(f"http://127.0.0.1:{server.port}/")

    async def test_an_answer_that_is_not_read_leaves_no_connection(self, world: "World") -> None:
        server = await world.serve(HEAD + b"Content-Length: 1000\r\n\r\nsome")
        client = world.operators()
        async with httpx2.AsyncClient(transport=client.transport()) as http:
            for _ in range(5):  # more than may be open at once
                async with http.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
                    assert response.status_code == 200


@pytest.mark.slow
class TestAnthropic:
    async def test_asks_through_the_transport(self, world: "World") -> None:
        from anthropic import APIConnectionError, AsyncAnthropic

        reply = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
            "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
            "content": [{"type": "text", "text": "Hello."}],
        }  # fmt: skip
        body = json.dumps(reply).encode()
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        server = await world.serve(HEAD + head + body)
        transport = world.operators(limits=Limits(total=5)).transport()
        async with httpx2.AsyncClient(transport=transport) as http:
            claude = AsyncAnthropic(
                api_key="k", base_url=f"http://127.0.0.1:{server.port}", http_client=http, max_retries=0
            )
            ask = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello?"}]}
            message = await claude.messages.create(**ask)  # type: ignore[call-overload]
            assert message.content[0].text == "Hello."
            away = claude.with_options(base_url="https://169.254.169.254")
            with pytest.raises(APIConnectionError) as refused:
                await away.messages.create(**ask)  # type: ignore[call-overload]
        assert "a metadata address of a cloud" in str(refused.value.__cause__)
