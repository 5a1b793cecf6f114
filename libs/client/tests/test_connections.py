"""The connections that a client makes from its environment: proxy, exceptions, certificate authorities."""

import socket
import ssl
from pathlib import Path

import pytest

from causeloop_client import Client, Unreachable
from causeloop_client.calls import GetAuditKey
from causeloop_client.connections import arguments

URL = "https://causeloop.example.com"
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


class TestProxy:
    @pytest.mark.parametrize(
        ("variable", "url"),
        [("HTTPS_PROXY", URL), ("https_proxy", URL), ("ALL_PROXY", URL), ("http_proxy", "http://causeloop.test")],
    )
    def test_is_that_of_the_environment(self, environ: pytest.MonkeyPatch, variable: str, url: str) -> None:
        environ.setenv(variable, "proxy.test:3128")
        assert arguments(url)["proxy"] == "http://proxy.test:3128"

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.8.8.8", "localhost", "a.localhost", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"],
    )
    def test_never_stands_before_this_host(self, environ: pytest.MonkeyPatch, host: str) -> None:
        """E33: the token for a gateway at 127.0.0.1 was sent to the proxy."""
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environ.setenv(variable, "http://proxy.test:3128")
        for scheme in ("http", "https"):
            assert "proxy" not in arguments(f"{scheme}://{host}:4000")

    @pytest.mark.parametrize(
        ("exceptions", "url"),
        [
            ("*", URL),
            ("example.com", URL),
            ("other, .example.com ,x", URL),
            ("*.example.com", URL),
            ("causeloop.example.com:443", URL),
            ("CAUSELOOP.EXAMPLE.COM", URL),
            ("10.0.0.0/8", "https://10.1.2.3"),
            ("[2001:db8::1]", "https://[2001:db8::1]:4000"),
            ("2001:db8::/32", "https://[2001:db8::1]:4000"),
        ],
    )
    def test_is_left_out_for_what_no_proxy_names(self, environ: pytest.MonkeyPatch, exceptions: str, url: str) -> None:
        environ.setenv("HTTPS_PROXY", "http://proxy.test:3128")
        environ.setenv("NO_PROXY", exceptions)
        assert "proxy" not in arguments(url)

    @pytest.mark.parametrize(
        "exceptions", ["", "ample.com", "example.com:80", "10.0.0.0/8", "[::1]", "[::1", "a/b", ",,"]
    )
    def test_is_used_for_the_others(self, environ: pytest.MonkeyPatch, exceptions: str) -> None:
        """E33: NO_PROXY=[::1] was a traceback."""
        environ.setenv("HTTPS_PROXY", "http://proxy.test:3128")
        environ.setenv("NO_PROXY", exceptions)
        assert arguments(URL)["proxy"] == "http://proxy.test:3128"

    @pytest.mark.parametrize(
        "proxy",
        [
            "socks5://user:hunter2@proxy.test",
            "http://",
            "http://[::1",
            "http://p:99999",
            "http://p:0",
            "ftp://p",
            "http://a..b",
        ],
    )
    def test_of_another_kind_is_refused_by_its_variable_without_its_password(
        self, environ: pytest.MonkeyPatch, proxy: str
    ) -> None:
        """E33: HTTPS_PROXY=socks5://… was a traceback."""
        environ.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(ValueError, match=r"^HTTPS_PROXY names no HTTP proxy, such as http://proxy") as refused:
            Client(URL)
        assert "hunter2" not in str(refused.value)


class TestAuthorities:
    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE"])
    def test_a_file_that_cannot_be_read_is_named(self, environ: pytest.MonkeyPatch, variable: str) -> None:
        """E33: a missing SSL_CERT_FILE was a traceback."""
        environ.setenv(variable, "/nowhere/ca.pem")
        with pytest.raises(
            ValueError, match=rf"^{variable} names /nowhere/ca\.pem, which cannot be read: No such file"
        ):
            Client(URL)
        Client("http://127.0.0.1:4000").close()  # it is not needed there

    def test_a_file_without_certificates_is_named(self, environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("none")
        environ.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with pytest.raises(ValueError, match="which has no certificate in PEM form"):
            Client(URL)

    def test_are_checked_by_the_default_ones(self) -> None:
        assert arguments(URL)["verify"].verify_mode == ssl.CERT_REQUIRED
        assert arguments("http://causeloop.test")["verify"].get_ca_certs() == []


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        ["", "causeloop.example.com", "ftp://x", "http://", "http://[::1", "http://x:99999", "http://x\x00", "//x",
         "http://a..b", f"http://{'a' * 64}.test", "http://xn--a", "ws://x:1", " http://x", "http://x?y", "http://x/#y"],
    )  # fmt: skip
    def test_that_is_none_is_refused(self, url: str) -> None:
        """E33: a look-up of some of them ended in a traceback."""
        with pytest.raises(ValueError, match=r"is no (http or https )?address"):
            Client(url)

    def test_where_nobody_listens_is_named_with_the_cause(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with (
                Client(url) as client,
                pytest.raises(Unreachable, match=rf"^Nobody answers at {url}: Connection refused\.$"),
            ):
                client.send(GetAuditKey())
