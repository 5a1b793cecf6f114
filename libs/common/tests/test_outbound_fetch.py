"""Requests to the outside: where they may go, and how long and how large an answer may be."""

import asyncio
import contextlib
import gc
import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from causeloop_common.errors import AppError, InvalidInput, Timeout, Unavailable
from causeloop_common.outbound import Answer, Limits, Refused, Unanswered, Unreachable
from causeloop_common.telemetry.tracing import ATTRIBUTES

if TYPE_CHECKING:
    from conftest import World

OPEN = {"OUTBOUND_TENANT_RANGES": "127.0.0.0/8", "OUTBOUND_HTTP": "all"}
HEAD = b"HTTP/1.1 200 OK\r\n"

Counted = Callable[[str], float]


async def refused(asked: Any, match: str = ".") -> AppError:
    """The error of a request, which has to come soon."""
    began = time.monotonic()
    with pytest.raises(AppError, match=match) as caught:
        await asked
    assert time.monotonic() - began < 2
    assert caught.value.detail.endswith(".")
    return caught.value


async def forever(writer: asyncio.StreamWriter, piece: bytes, pause: float = 0) -> None:
    """Send until nobody takes it."""
    with contextlib.suppress(OSError):
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)


class TestFetch:
    async def test_an_answer_comes_whole_from_the_address_of_the_name(self, world: "World", counted: Counted) -> None:
        world.names["provider.test"] = ["127.0.0.1"]
        server = await world.serve(HEAD + b"X-A: 1\r\nX-A: 2\r\nContent-Length: 4\r\n\r\nfine")

        answer = await world.operators().fetch("GET", f"http://provider.test:{server.port}/a%20b?c=d")

        assert answer == Answer(200, answer.headers, b"fine")
        assert answer.headers["x-a"] == "1, 2"
        [head] = server.heads
        assert head.startswith(f"GET /a%20b?c=d HTTP/1.1\r\nHost: provider.test:{server.port}\r\n")
        assert world.asked == ["provider.test"]
        assert counted("2xx") == 1

    async def test_a_body_goes_along_and_any_status_is_an_answer(self, world: "World", counted: Counted) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n" + await reader.readexactly(5))

        server = await world.serve(answer)
        found = await world.operators().fetch(
            "POST", f"http://127.0.0.1:{server.port}/", headers={"X-Key": "k"}, content=b"hello"
        )
        assert (found.status, found.body) == (503, b"hello")
        assert "content-length: 5\r\n" in server.heads[0].lower()
        assert "X-Key: k\r\n" in server.heads[0]
        assert counted("5xx") == 1

    async def test_headers_of_the_connection_are_not_the_callers_to_choose(self, world: "World") -> None:
        server = await world.serve()
        forged = {
            "Host": "inside.test",
            "Connection": "keep-alive",
            "Accept-Encoding": "br",
            "Proxy-Authorization": "x",
        }
        forged |= {"Content-Length": "99", "Transfer-Encoding": "chunked"}
        await world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/", headers=forged)
        for name in ("inside.test", "keep-alive", "br", "roxy", "ength", "chunked"):
            assert name not in server.heads[0]

    async def test_a_header_that_would_be_two_is_refused(self, world: "World") -> None:
        server = await world.serve()
        asked = world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/", headers={"X": "a\r\nY: b"})
        assert isinstance(await refused(asked, "a header holds what neither may hold"), Refused)
        assert server.heads == []

    async def test_nothing_is_read_from_the_environment(self, world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
        proxy, server = await world.serve(), await world.serve()
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/")
        assert proxy.connections == 0

    async def test_a_connection_serves_once(self, world: "World") -> None:
        server, client = await world.serve(), world.operators()
        for _ in range(3):
            await client.fetch("GET", f"http://127.0.0.1:{server.port}/")
        assert server.connections == 3
        await asyncio.sleep(0.01)
        assert server.open == 0

    async def test_a_cancelled_request_leaves_no_connection(self, world: "World", counted: Counted) -> None:
        server = await world.serve(lambda reader, writer: asyncio.sleep(10))
        asking = asyncio.create_task(world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/"))
        await asyncio.sleep(0.1)
        assert server.heads
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert counted("cancelled") == 1


class TestWhere:
    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("https://127.0.0.1/", "it is a loopback address"),
            ("https://127.0.0.1./", "it is a loopback address"),
            ("https://127。0。0。1/", "it is a loopback address"),
            ("https://[::1]/", "it is a loopback address"),
            ("https://[0:0:0:0:0:0:0:1]/", "it is a loopback address"),
            ("https://[::ffff:127.0.0.1]/", "it is an IPv4 address in an IPv6 form"),
            ("https://[::ffff:7f00:1]/", "it is an IPv4 address in an IPv6 form"),
            ("https://[64:ff9b::7f00:1]/", "it is a NAT64 address"),
            ("https://[2002:7f00:1::]/", "it is a 6to4 address"),
            ("https://169.254.169.254/latest/meta-data/", "it is a metadata address of a cloud"),
            ("https://[fd00:ec2::254]/", "it is a metadata address of a cloud"),
            ("https://10.0.0.1/", "it is a private address"),
            ("https://[fe80::1]/", "it is a link-local address"),
            ("https://0.0.0.0/", "it is an unspecified address"),
            ("https://[::]/", "it is an unspecified address"),
            ("https://localhost/", "it resolves to a loopback address"),
            ("https://LOCALHOST./", "it resolves to a loopback address"),
            ("https://inside.test/", "it resolves to a private address"),
            ("https://metadata.test/", "it resolves to a metadata address of a cloud"),
            ("https://zone.test/", "it resolves to a link-local address"),
            ("https://mixed.test/", "it resolves to a loopback address"),
            ("https://2130706433/", "is no host"),
            ("https://0x7f000001/", "is no host"),
            ("https://0177.0.0.1/", "cannot be read"),
            ("https://017700000001/", "is no host"),
            ("https://127.1/", "is no host"),
            ("https://[fe80::1%25eth0]/", "is no host"),
            ("https://[fe80::1%eth0]/", "is no host"),
            ("https://\uff11\uff12\uff17.0.0.1/", "cannot be read"),
            ("https://①②⑦.0.0.1/", "cannot be read"),
            ("https://ⓛocalhost/", "cannot be read"),
            ("https://%31%32%37.0.0.1/", "is no host"),
            ("https://public.test\\@127.0.0.1/", "has a user or password"),
            ("https://public.test@127.0.0.1/", "has a user or password"),
            ("https://public.test:0/", "is no port"),
            ("https://public.test:65536/", "is no port"),
            ("https:///etc/passwd", "begins with https://"),
            ("//127.0.0.1/", "begins with https://"),
            ("127.0.0.1", "begins with https://"),
            ("ftp://public.test/", "begins with https://"),
            ("file:///etc/passwd", "begins with https://"),
            ("gopher://127.0.0.1/", "begins with https://"),
            ("http://public.test/", "is not reached without TLS: use its https:// address"),
        ],
    )
    async def test_a_tenants_destination_is_refused_in_every_spelling(
        self, world: "World", counted: Counted, url: str, why: str
    ) -> None:
        world.names |= {
            "localhost": ["127.0.0.1", "::1"],
            "inside.test": ["10.0.0.1"],
            "metadata.test": ["169.254.169.254"],
            "zone.test": ["fe80::1%eth0"],
            "mixed.test": ["93.184.215.14", "127.0.0.1"],
            "public.test": ["93.184.215.14"],
        }
        error = await refused(world.tenants().fetch("GET", url), why)
        assert isinstance(error, InvalidInput)
        assert counted("refused") == 1

    async def test_the_refusal_names_the_rule_and_the_setting_but_no_address(self, world: "World") -> None:
        world.names["inside.test"] = ["10.20.30.40"]
        error = await refused(world.tenants().fetch("GET", "https://inside.test/"))
        assert error.detail == (
            "inside.test is not reached, because it resolves to a private address. Use a public address; the operator "
            "can open a private range (OUTBOUND_TENANT_RANGES)."
        )

    async def test_an_operators_destination_may_be_private_and_never_metadata(self, world: "World") -> None:
        world.names |= {"inside.test": ["127.0.0.1"], "metadata.test": ["169.254.169.254"]}
        server = await world.serve()
        assert (await world.operators().fetch("GET", f"http://inside.test:{server.port}/")).status == 200
        await refused(world.operators().fetch("GET", "https://metadata.test/"), "a metadata address of a cloud")

    async def test_a_name_that_resolves_differently_the_second_time_gains_nothing(self, world: "World") -> None:
        """Between check and connection no name is looked up, and each request is checked anew."""
        good = await world.serve(host="127.0.0.2")
        bad = await world.serve(host="127.0.0.1", port=good.port)
        world.names["rebound.test"] = [["127.0.0.2"], ["127.0.0.1"]]
        client = world.tenants(OUTBOUND_TENANT_RANGES="127.0.0.2/32", OUTBOUND_HTTP="all")

        await client.fetch("GET", f"http://rebound.test:{good.port}/")
        assert (good.connections, bad.connections, len(world.asked)) == (1, 0, 1)

        await refused(client.fetch("GET", f"http://rebound.test:{good.port}/"), "a loopback address")
        assert (good.connections, bad.connections, len(world.asked)) == (1, 0, 2)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_an_answer_and_not_followed(self, world: "World", status: int) -> None:
        inside = await world.serve()
        to = f"http://127.0.0.1:{inside.port}/latest/meta-data/"
        server = await world.serve(
            f"HTTP/1.1 {status} Elsewhere\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        answer = await world.tenants(OPEN).fetch("GET", f"http://127.0.0.1:{server.port}/")
        assert (answer.status, answer.headers["location"]) == (status, to)
        assert inside.connections == 0

    async def test_without_tls_only_this_host_is_reached_unless_a_setting_allows_it(self, world: "World") -> None:
        server = await world.serve(host="127.0.0.1")
        world.names |= {"here.test": ["127.0.0.1"], "there.test": ["10.255.255.1"]}
        here, there = f"http://here.test:{server.port}/", "http://there.test/"
        assert (await world.operators().fetch("GET", here)).status == 200
        await refused(world.operators().fetch("GET", there), r"there.test:80 .*without TLS.*\(OUTBOUND_HTTP\)")
        for url in (here, there):
            tenants = {"OUTBOUND_HTTP": "operators", "OUTBOUND_TENANT_RANGES": "127.0.0.0/8,10.0.0.0/8"}
            await refused(world.tenants(tenants).fetch("GET", url), "without TLS")
        with contextlib.suppress(Unreachable, Unanswered):  # whatever is at that address, it is tried
            await world.operators(OUTBOUND_HTTP="operators").fetch("GET", there)

    async def test_ports_may_be_limited(self, world: "World") -> None:
        server, other = await world.serve(), await world.serve()
        client = world.tenants(OPEN, OUTBOUND_TENANT_PORTS=f"443,{server.port}")
        assert (await client.fetch("GET", f"http://127.0.0.1:{server.port}/")).status == 200
        await refused(
            client.fetch("GET", f"http://127.0.0.1:{other.port}/"),
            rf"Port {other.port} of 127.0.0.1 is not reached: use one of 443, {server.port}\.",
        )


class TestUnreachable:
    async def test_an_unknown_name_is_distinguished_from_a_closed_port(self, world: "World", counted: Counted) -> None:
        unknown = await refused(
            world.operators().fetch("GET", "https://unknown.test/"), "The name unknown.test does not resolve: check how"
        )
        assert isinstance(unknown, Unavailable)
        server = await world.serve()
        await world.close()
        await refused(
            world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/"),
            rf"no connection to 127.0.0.1:{server.port} \(Connection refused\): check that it listens there",
        )
        assert (counted("unresolved"), counted("unconnected")) == (1, 1)

    async def test_a_name_without_addresses_is_named(self, world: "World") -> None:
        world.names["empty.test"] = []
        await refused(world.operators().fetch("GET", "https://empty.test/"), "empty.test has no address")

    async def test_the_next_address_is_tried(self, world: "World") -> None:
        server = await world.serve(host="127.0.0.2")
        world.names["two.test"] = ["127.0.0.3", "127.0.0.2"]
        assert (await world.operators().fetch("GET", f"http://two.test:{server.port}/")).status == 200

    async def test_names_that_do_not_resolve_take_bounded_time_and_delay_no_other_client(self, world: "World") -> None:
        world.silent |= {f"silent-{n}.test" for n in range(6)}
        world.names["provider.test"] = ["127.0.0.1"]
        server, outbound = await world.serve(), world.outbound()

        quick = Limits(total=0.5, resolve=0.2)
        slow, other = outbound.tenants("test", quick), outbound.operators("test", quick)
        asking = [slow.fetch("GET", f"https://silent-{n}.test/") for n in range(6)]
        errors, answer = await asyncio.gather(
            asyncio.gather(*(refused(one, r"did not resolve within 0.2 s: check the DNS servers\.") for one in asking)),
            other.fetch("GET", f"http://provider.test:{server.port}/"),
        )
        assert len(errors) == 6
        assert answer.status == 200

    async def test_a_bounded_number_goes_to_one_host_at_once(self, world: "World") -> None:
        most = 0

        async def slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal most
            most = max(most, server.open)
            await asyncio.sleep(0.02)
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")

        server = await world.serve(slowly)
        client = world.operators()
        await asyncio.gather(*(client.fetch("GET", f"http://127.0.0.1:{server.port}/") for _ in range(8)))
        assert most <= 3  # two at work, and one that is closing
        gc.collect()
        assert len(client._places._hosts) == 0  # hosts that nobody talks to take no memory


class TestBounds:
    """Answers that never end, or are too much: in bounded time and memory."""

    async def test_a_silent_server(self, world: "World", counted: Counted) -> None:
        server = await world.serve(lambda reader, writer: asyncio.sleep(10))
        error = await refused(world.tenants(OPEN).fetch("GET", f"http://127.0.0.1:{server.port}/"), "is silent for 0.3")
        assert isinstance(error, Timeout)
        assert counted("late") == 1

    @pytest.mark.parametrize(
        "begin", [b"", HEAD, HEAD + b"Content-Length: 60000\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1"]
    )
    async def test_one_byte_now_and_then(self, world: "World", begin: bytes) -> None:
        async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(begin)
            await forever(writer, b"1", pause=0.05)

        server = await world.serve(drip)
        await refused(
            world.tenants(OPEN).fetch("GET", f"http://127.0.0.1:{server.port}/"),
            "does not answer (completely within 0.6 s|in HTTP/1.1)",
        )

    @pytest.mark.parametrize(
        ("begin", "piece"),
        [
            (HEAD + b"\r\n", b"x" * 65536),
            (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
            (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", (b"1;" + b"e" * 60000 + b"\r\nx\r\n")),
            (HEAD, b"X-A: " + b"x" * 60000 + b"\r\n"),
            (HEAD + b"X-A: ", b"x" * 65536),
            (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000),
            (b"", b"\0" * 65536),
            (HEAD + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(bytes(1_000_000))),
        ],
        ids=["body", "chunks", "chunk extensions", "headers", "a header", "interim answers", "no HTTP", "gzip members"],
    )
    async def test_an_endless_answer(self, world: "World", begin: bytes, piece: bytes) -> None:
        async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(begin)
            await forever(writer, piece)

        server = await world.serve(endless)
        error = await refused(
            world.tenants(OPEN).fetch("GET", f"http://127.0.0.1:{server.port}/"),
            "with more (than the 65536 )?bytes|does not answer (in HTTP/1.1|completely)",
        )
        assert isinstance(error, Unanswered)

    async def test_a_large_one_that_announces_itself_is_not_read(self, world: "World", counted: Counted) -> None:
        server = await world.serve(HEAD + b"Content-Length: 65537\r\n\r\n")
        await refused(
            world.tenants(OPEN).fetch("GET", f"http://127.0.0.1:{server.port}/"),
            "127.0.0.1 answers with more than the 65536 bytes that are accepted here",
        )
        assert counted("too_large") == 1

    async def test_the_largest_that_is_accepted(self, world: "World") -> None:
        server = await world.serve(HEAD + b"Content-Length: 65536\r\n\r\n" + b"x" * 65536)
        answer = await world.tenants(OPEN).fetch("GET", f"http://127.0.0.1:{server.port}/")
        assert len(answer.body) == 65536

    async def test_a_head_answer_may_announce_any_length(self, world: "World") -> None:
        server = await world.serve(HEAD + b"Content-Length: 99999999\r\n\r\n")
        answer = await world.tenants(OPEN).fetch("HEAD", f"http://127.0.0.1:{server.port}/")
        assert answer.body == b""

    async def test_a_packed_answer_is_unpacked(self, world: "World") -> None:
        packed = gzip.compress(b"fine" * 16384)
        server = await world.serve(
            HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode() + packed
        )
        answer = await world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/")
        assert answer.body == b"fine" * 16384
        assert "content-encoding" not in answer.headers
        assert "content-length" not in answer.headers

    async def test_a_bomb_is_unpacked_no_further_than_the_bound(self, world: "World") -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(60)) + packer.flush()
        assert len(bomb) < 65536
        server = await world.serve(
            HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode() + bomb
        )
        client = world.tenants(OPEN)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        try:
            await refused(client.fetch("GET", f"http://127.0.0.1:{server.port}/"), "answers with more than the 65536")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - before < 2_000_000

    @pytest.mark.parametrize(
        ("encoding", "body", "why"),
        [
            ("gzip, gzip", gzip.compress(gzip.compress(b"x")), "in another way than gzip"),
            ("br", b"x", "in another way than gzip"),
            ("gzip", b"no gzip", "does not answer in HTTP/1.1 as it should"),
            ("gzip", gzip.compress(b"x" * 1000)[:-9], "does not answer in HTTP/1.1 as it should"),
            ("gzip", gzip.compress(b"x") + b"more", "does not answer in HTTP/1.1 as it should"),
        ],
        ids=["twice", "brotli", "not gzip", "cut short", "something after it"],
    )
    async def test_what_cannot_be_unpacked_is_refused(
        self, world: "World", counted: Counted, encoding: str, body: bytes, why: str
    ) -> None:
        head = f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        server = await world.serve(HEAD + head + body)
        await refused(world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/"), why)
        assert counted("malformed") == 1

    async def test_an_answer_that_stops_halfway_is_none(self, world: "World") -> None:
        server = await world.serve(HEAD + b"Content-Length: 10\r\n\r\nhalf")
        error = await refused(world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/"))
        assert isinstance(error, Unanswered)

    async def test_no_answer_at_all(self, world: "World") -> None:
        server = await world.serve(b"")
        error = await refused(world.operators().fetch("GET", f"http://127.0.0.1:{server.port}/"))
        assert isinstance(error, Unanswered)


class TestSpans:
    async def test_have_nothing_of_the_address_or_the_headers(self, world: "World") -> None:
        spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(spans))
        server = await world.serve()
        client = world.outbound(tracer=provider.get_tracer("test")).operators("test")
        await client.fetch("GET", f"http://127.0.0.1:{server.port}/path?key=secret", headers={"X-Key": "secret"})
        await refused(client.fetch("GET", "https://169.254.169.254/"))
        first, second = spans.get_finished_spans()
        assert first.name == second.name == "outbound test"
        assert first.attributes == {"http.request.method": "GET", "http.response.status_code": 200}
        assert set(first.attributes) <= ATTRIBUTES
        assert second.attributes == {"http.request.method": "GET", "error.type": "validation_error"}
