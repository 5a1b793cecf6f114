"""Connections for other protocols than HTTP, under the same rules."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common.outbound import Client, Refused, Unanswered, Unreachable

if TYPE_CHECKING:
    from conftest import World

OPEN = {"OUTBOUND_TENANT_RANGES": "127.0.0.0/8"}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)


async def starttls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: Any) -> None:
    """What an SMTP server does after EHLO."""
    await reader.readuntil(b"STARTTLS\r\n")
    writer.write(b"220 Go ahead\r\n")
    await writer.drain()
    await writer.start_tls(tls)
    writer.write(await reader.read(1000))


@pytest.fixture
def client(world: "World") -> Client:
    world.names["mail.test"] = ["127.0.0.1"]
    return world.tenants(OPEN, OUTBOUND_CA_FILE=str(world.authority.ca_file))


class TestOpenConnection:
    async def test_speaks_tls_with_the_name_from_the_first_byte(self, world: "World", client: Client) -> None:
        server = await world.serve(echo, tls=world.authority.server("mail.test"))
        async with client.open_connection("mail.test", server.port) as connection:
            await connection.write(b"\r\n\r\nhello")
            assert await connection.read() == b"hello"
        await asyncio.sleep(0.01)
        assert server.open == 0

    async def test_begins_in_clear_for_a_protocol_that_asks_for_tls(self, world: "World", client: Client) -> None:
        tls = world.authority.server("mail.test")
        server = await world.serve(lambda reader, writer: starttls(reader, writer, tls))
        async with client.open_connection("mail.test", server.port, starttls=True) as connection:
            await connection.write(b"EHLO x\r\n\r\nSTARTTLS\r\n")
            assert await connection.read() == b"220 Go ahead\r\n"
            await connection.start_tls()
            await connection.write(b"AUTH")
            assert await connection.read() == b"AUTH"

    @pytest.mark.parametrize("begins", [False, True])
    async def test_is_refused_where_a_request_would_be(self, world: "World", begins: bool) -> None:
        server = await world.serve(echo)
        world.names["mail.test"] = ["127.0.0.1"]
        for host in ("mail.test", "127.0.0.1", "127.1", "[::1]"):
            with pytest.raises(Refused):
                async with world.tenants().open_connection(host, server.port, starttls=begins):
                    pass
        assert server.connections == 0

    async def test_is_refused_where_the_certificate_is_anothers(self, world: "World", client: Client) -> None:
        server = await world.serve(echo, tls=world.authority.server("other.test"))
        with pytest.raises(Unreachable, match="made for another name"):
            async with client.open_connection("mail.test", server.port):
                pass

    async def test_waits_for_an_answer_no_longer_than_the_bound(self, world: "World", client: Client) -> None:
        server = await world.serve(echo, tls=world.authority.server("mail.test"))
        async with client.open_connection("mail.test", server.port) as connection:
            with pytest.raises(Unanswered, match=r"mail\.test takes or sends nothing for 0\.3 s"):
                await connection.read()

    async def test_takes_no_more_than_the_bound(self, world: "World", client: Client) -> None:
        async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(bytes(65536))
                await writer.drain()

        server = await world.serve(endless, tls=world.authority.server("mail.test"))

        async def read_all() -> None:
            async with client.open_connection("mail.test", server.port) as connection:
                await connection.write(b"\r\n\r\n")
                while await connection.read():
                    pass

        with pytest.raises(Unanswered, match="more bytes than are accepted"):
            await read_all()

    async def test_an_error_of_the_callers_is_the_callers(self, world: "World", client: Client) -> None:
        server = await world.serve(echo, tls=world.authority.server("mail.test"))
        with pytest.raises(TimeoutError, match="mine"):
            async with client.open_connection("mail.test", server.port):
                raise TimeoutError("mine")
