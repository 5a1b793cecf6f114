"""TLS to the outside is verified for the name, whatever address it is at, and a failure names what to do."""

import ssl
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from causeloop_common.outbound import Unreachable
from causeloop_common.settings import SettingsError

if TYPE_CHECKING:
    from conftest import World


class TestVerification:
    async def test_of_a_private_authoritys_certificate_needs_its_file(self, world: "World") -> None:
        world.names["provider.test"] = ["127.0.0.1"]
        server = await world.serve(tls=world.authority.server("provider.test"))
        url = f"https://provider.test:{server.port}/"
        trusting = world.operators(OUTBOUND_CA_FILE=str(world.authority.ca_file))
        assert (await trusting.fetch("GET", url)).body == b"fine"
        with pytest.raises(Unreachable) as refused:
            await world.operators().fetch("GET", url)
        assert refused.value.detail == (
            "The certificate of provider.test is not trusted (unable to get local issuer certificate): if a private "
            "authority made it, set OUTBOUND_CA_FILE to the file with that authority's certificate."
        )
        assert refused.value.outcome == "untrusted"
        assert len(server.heads) == 1

    async def test_is_for_the_name_and_not_the_address(self, world: "World") -> None:
        asked: list[str | None] = []
        tls = world.authority.server("provider.test")
        tls.sni_callback = lambda sock, name, context: asked.append(name)
        server = await world.serve(tls=tls)
        world.names["provider.test"] = world.names["other.test"] = ["127.0.0.1"]
        client = world.operators(OUTBOUND_CA_FILE=str(world.authority.ca_file))
        await client.fetch("GET", f"https://provider.test:{server.port}/")
        for host in ("other.test", "127.0.0.1"):
            with pytest.raises(Unreachable, match=f"The certificate of {host} was made for another name: use a name"):
                await client.fetch("GET", f"https://{host}:{server.port}/")
        assert asked == ["provider.test", "other.test", None]
        assert f"Host: provider.test:{server.port}\r\n" in server.heads[0]

    async def test_of_an_address_is_possible_where_its_certificate_has_it(self, world: "World") -> None:
        server = await world.serve(tls=world.authority.server("127.0.0.1"))
        client = world.operators(OUTBOUND_CA_FILE=str(world.authority.ca_file))
        assert (await client.fetch("GET", f"https://127.0.0.1:{server.port}/")).status == 200

    async def test_fails_when_the_certificate_is_over(self, world: "World") -> None:
        server = await world.serve(tls=world.authority.server("127.0.0.1", life=timedelta(days=-1)))
        client = world.operators(OUTBOUND_CA_FILE=str(world.authority.ca_file))
        with pytest.raises(Unreachable, match="is not valid at this time: let it be renewed, and check this machine's"):
            await client.fetch("GET", f"https://127.0.0.1:{server.port}/")

    async def test_fails_where_no_tls_is_spoken(self, world: "World") -> None:
        async def greet(reader: object, writer: object) -> None:
            writer.write(b"220 mail.test ESMTP\r\n")  # type: ignore[attr-defined]

        server = await world.serve(greet)
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1 does not (speak TLS here|answer a TLS handshake)"):
            await world.operators().fetch("GET", f"https://127.0.0.1:{server.port}/")

    async def test_needs_version_1_2_or_later(self, world: "World") -> None:
        old = world.authority.server("127.0.0.1")
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        server = await world.serve(tls=old)
        client = world.operators(OUTBOUND_CA_FILE=str(world.authority.ca_file))
        with pytest.raises(Unreachable, match="does not speak TLS here"):
            await client.fetch("GET", f"https://127.0.0.1:{server.port}/")


class TestAuthorityFile:
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (None, "No such file or directory"),
            (b"", "it holds no certificate in PEM"),
            (b"no certificate", "it holds no certificate in PEM"),
            (b"\xff\xfe", "it holds no certificate in PEM"),
        ],
    )
    def test_that_cannot_be_used_is_named(
        self, world: "World", tmp_path: Path, content: bytes | None, why: str
    ) -> None:
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SettingsError, match=f"^OUTBOUND_CA_FILE: .*ca.pem cannot be used: {why}\\.$"):
            world.outbound({"OUTBOUND_CA_FILE": str(file)})
