"""Proxies: the operator's destinations by name, the tenants' by an address that was checked."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from causeloop_common.outbound import Refused, Unreachable

if TYPE_CHECKING:
    from conftest import Server, World

OPEN = {"OUTBOUND_TENANT_RANGES": "127.0.0.0/8", "OUTBOUND_HTTP": "all"}


class Proxy:
    """An HTTP proxy on the loopback: where it was asked to connect, and a way there for names of its own."""

    def __init__(self, knows: dict[str, str], status: bytes = b"200 OK") -> None:
        self.asked: list[str] = []
        self.authorizations: list[str] = []
        self._knows = knows
        self._status = status
        self.server: Server

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, *_ = self.server.heads[-1].split()
        assert method == "CONNECT"
        self.asked.append(target)
        self.authorizations += [
            line.partition(": ")[2] for line in self.server.heads[-1].split("\r\n") if line.startswith("Proxy-Auth")
        ]
        writer.write(b"HTTP/1.1 " + self._status + b"\r\n\r\n")
        await writer.drain()
        if not self._status.startswith(b"200"):
            return
        host, _, port = target.rpartition(":")
        there, back = await asyncio.open_connection(self._knows.get(host, host), int(port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

        try:
            await asyncio.wait(
                [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            back.close()


async def proxy(world: "World", status: bytes = b"200 OK", tls: bool = False, **knows: str) -> Proxy:
    made = Proxy({name.replace("_", "."): address for name, address in knows.items()}, status)
    made.server = await world.serve(made, tls=world.authority.server("proxy.test") if tls else None)
    world.names["proxy.test"] = ["127.0.0.1"]
    return made


class TestOperatorsProxy:
    async def test_is_given_the_name_and_the_tls_is_with_the_destination(self, world: "World") -> None:
        server = await world.serve(tls=world.authority.server("provider.test"))
        between = await proxy(world, provider_test="127.0.0.1")
        client = world.operators(
            OUTBOUND_PROXY=f"http://user:pass%20word@proxy.test:{between.server.port}",
            OUTBOUND_CA_FILE=str(world.authority.ca_file),
        )
        assert (await client.fetch("GET", f"https://provider.test:{server.port}/")).body == b"fine"
        assert between.asked == [f"provider.test:{server.port}"]
        assert between.authorizations == ["Basic dXNlcjpwYXNzIHdvcmQ="]
        assert world.asked == ["proxy.test"]
        assert "roxy" not in server.heads[0]

    async def test_may_itself_want_tls(self, world: "World") -> None:
        server = await world.serve(tls=world.authority.server("provider.test"))
        between = await proxy(world, tls=True, provider_test="127.0.0.1")
        client = world.operators(
            OUTBOUND_PROXY=f"https://proxy.test:{between.server.port}", OUTBOUND_CA_FILE=str(world.authority.ca_file)
        )
        assert (await client.fetch("GET", f"https://provider.test:{server.port}/")).body == b"fine"

    async def test_is_not_on_the_way_to_this_host_or_an_excepted_one(self, world: "World") -> None:
        server = await world.serve()
        between = await proxy(world)
        world.names |= {"localhost": ["127.0.0.1"], "kms.internal": ["127.0.0.1"], "mail.example.com": ["127.0.0.1"]}
        client = world.operators(
            OUTBOUND_PROXY=f"http://proxy.test:{between.server.port}",
            OUTBOUND_PROXY_EXCEPT=".internal, mail.example.com",
        )
        for host in ("127.0.0.1", "localhost", "kms.internal", "mail.example.com"):
            assert (await client.fetch("GET", f"http://{host}:{server.port}/")).status == 200
        assert between.asked == []

    async def test_is_not_asked_for_a_metadata_address(self, world: "World") -> None:
        between = await proxy(world)
        client = world.operators(OUTBOUND_PROXY=f"http://proxy.test:{between.server.port}")
        with pytest.raises(Refused, match="a metadata address"):
            await client.fetch("GET", "https://169.254.169.254/")
        with pytest.raises(Refused, match="without TLS"):
            await client.fetch("GET", "http://provider.test/")
        assert between.server.connections == 0

    @pytest.mark.parametrize(
        ("status", "what"),
        [
            (b"407 Who", r"The proxy \(OUTBOUND_PROXY\) answers 407 for provider.test:443: put its user and password"),
            (b"403 No", r"The proxy \(OUTBOUND_PROXY\) answers 403 for provider.test:443: let it through"),
            (b"no HTTP", r"The proxy \(OUTBOUND_PROXY\) does not open a way to provider.test:443: check the setting"),
        ],
    )
    async def test_that_does_not_let_through_is_named(self, world: "World", status: bytes, what: str) -> None:
        between = await proxy(world, status=status)
        client = world.operators(OUTBOUND_PROXY=f"http://proxy.test:{between.server.port}")
        with pytest.raises(Unreachable, match=what) as failed:
            await client.fetch("GET", "https://provider.test/")
        assert failed.value.outcome == "proxy"

    async def test_that_is_silent_takes_bounded_time(self, world: "World") -> None:
        silent = await world.serve(lambda reader, writer: asyncio.sleep(10))
        client = world.operators(OUTBOUND_PROXY=f"http://127.0.0.1:{silent.port}")
        with pytest.raises(Unreachable, match=r"does not open a way to provider\.test:443"):
            await client.fetch("GET", "https://provider.test/")

    async def test_that_is_not_there_is_named(self, world: "World") -> None:
        client = world.operators(OUTBOUND_PROXY="http://127.0.0.1:9")
        with pytest.raises(Unreachable, match=r"no connection to the proxy 127.0.0.1:9 \(Connection refused\)"):
            await client.fetch("GET", "https://provider.test/")


class TestTenantsProxy:
    async def test_is_given_an_address_that_was_checked(self, world: "World") -> None:
        server = await world.serve(tls=world.authority.server("hook.test"))
        between = await proxy(world)
        world.names["hook.test"] = ["127.0.0.1"]
        client = world.tenants(
            OUTBOUND_TENANT_PROXY=f"http://proxy.test:{between.server.port}",
            OUTBOUND_CA_FILE=str(world.authority.ca_file),
            environ=OPEN,
        )
        assert (await client.fetch("GET", f"https://hook.test:{server.port}/")).body == b"fine"
        assert between.asked == [f"127.0.0.1:{server.port}"]

    async def test_is_not_asked_for_what_is_refused(self, world: "World") -> None:
        between = await proxy(world)
        world.names["inside.test"] = ["10.0.0.1"]
        client = world.tenants(OUTBOUND_TENANT_PROXY=f"http://proxy.test:{between.server.port}")
        for url in ("https://inside.test/", "https://127.0.0.1/", "https://127.1/"):
            with pytest.raises(Refused):
                await client.fetch("GET", url)
        assert between.server.connections == 0

    async def test_that_resolves_itself_is_given_names_and_no_private_address(self, world: "World") -> None:
        server = await world.serve(tls=world.authority.server("hook.test"))
        between = await proxy(world, hook_test="127.0.0.1")
        client = world.tenants(
            OUTBOUND_TENANT_PROXY=f"http://proxy.test:{between.server.port}",
            OUTBOUND_TENANT_PROXY_RESOLVES="true",
            OUTBOUND_CA_FILE=str(world.authority.ca_file),
        )
        assert (await client.fetch("GET", f"https://hook.test:{server.port}/")).body == b"fine"
        assert between.asked == [f"hook.test:{server.port}"]
        for host in ("10.0.0.1", "[::1]", "2130706433"):
            with pytest.raises(Refused):
                await client.fetch("GET", f"https://{host}/")
        assert len(between.asked) == 1

    async def test_is_another_than_the_operators(self, world: "World") -> None:
        server = await world.serve()
        between = await proxy(world)
        operators = {"OUTBOUND_PROXY": f"http://proxy.test:{between.server.port}"}
        await world.tenants({**operators, **OPEN}).fetch("GET", f"http://127.0.0.1:{server.port}/")
        assert between.asked == []
