"""Which addresses may be reached, in whatever spelling they come."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, strategies as st

from causeloop_common.outbound import Refused
from causeloop_common.outbound.addresses import EVERYWHERE, host, refusal

INSIDE = {
    "127.0.0.1": "a loopback address",
    "127.255.0.9": "a loopback address",
    "::1": "a loopback address",
    "10.1.2.3": "a private address",
    "172.31.0.1": "a private address",
    "192.168.1.1": "a private address",
    "fd12:3456::1": "a private address",
    "100.64.0.1": "a shared address (CGNAT)",
    "100.127.255.255": "a shared address (CGNAT)",
    "64:ff9b::808:808": "a NAT64 address",
}
NEVER = {
    "0.0.0.0": "an unspecified address",
    "0.1.2.3": "an unspecified address",
    "::": "an unspecified address",
    "169.254.169.254": "a metadata address of a cloud",
    "169.254.170.2": "a metadata address of a cloud",
    "100.100.100.200": "a metadata address of a cloud",
    "168.63.129.16": "a metadata address of a cloud",
    "192.0.0.192": "a metadata address of a cloud",
    "fd00:ec2::254": "a metadata address of a cloud",
    "fd20:ce::254": "a metadata address of a cloud",
    "169.254.1.1": "a link-local address",
    "fe80::1": "a link-local address",
    "224.0.0.1": "a multicast address",
    "ff02::1": "a multicast address",
    "192.0.2.1": "a documentation or benchmarking address",
    "198.51.100.1": "a documentation or benchmarking address",
    "203.0.113.1": "a documentation or benchmarking address",
    "198.19.0.1": "a documentation or benchmarking address",
    "2001:db8::1": "a documentation or benchmarking address",
    "3fff::1": "a documentation or benchmarking address",
    "192.88.99.1": "a 6to4 address",
    "2002:7f00:1::": "a 6to4 address",  # 127.0.0.1
    "2001:0:4136:e378:8000:63bf:80ff:fffe": "a Teredo address",
    "fec0::1": "a site-local address",
    "::ffff:127.0.0.1": "an IPv4 address in an IPv6 form",
    "::ffff:8.8.8.8": "an IPv4 address in an IPv6 form",
    "::ffff:0:127.0.0.1": "an IPv4 address in an IPv6 form",
    "64:ff9b:1::a9fe:a9fe": "an IPv4 address in an IPv6 form",
    "::127.0.0.1": "a reserved address",
    "192.0.0.8": "a reserved address",
    "255.255.255.255": "a reserved address",
    "240.0.0.1": "a reserved address",
    "2001:2::1": "a reserved address",
    "2001:20::1": "a reserved address",
    "100::1": "a reserved address",
    "5f00::1": "a reserved address",
    "4000::1": "a reserved address",
}
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450::1", "2003::1"]

ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address)


class TestTenantsDestinations:
    @pytest.mark.parametrize(("address", "rule"), [*INSIDE.items(), *NEVER.items()])
    def test_are_nowhere_but_in_public(self, address: str, rule: str) -> None:
        assert refusal(ip_address(address), ()) == rule

    @pytest.mark.parametrize("address", PUBLIC)
    def test_are_public(self, address: str) -> None:
        assert refusal(ip_address(address), ()) is None

    @given(ipv4 | ipv6)
    def test_are_nowhere_that_the_registries_keep_off_the_internet(self, address: IPv4Address | IPv6Address) -> None:
        if not address.is_global or address.is_multicast:
            assert refusal(address, ()) is not None

    @given(ipv4)
    def test_have_no_other_form_for_an_address_of_version_4(self, address: IPv4Address) -> None:
        number = int(address)
        for form in (
            number | 0xFFFF << 32, number, number | 0xFFFF << 48, number | 0x0064FF9B << 96,
            number | 0x0064FF9B0001 << 80, 0x2002 << 112 | number << 80, 0x20010000 << 96 | number ^ 0xFFFFFFFF,
        ):  # fmt: skip
            assert refusal(IPv6Address(form), ()) is not None

    @pytest.mark.parametrize("address", INSIDE)
    def test_are_in_a_private_range_that_is_opened(self, address: str) -> None:
        assert refusal(ip_address(address), [ip_network(address)]) in (None, *INSIDE.values())
        opened = [ip_network(address), ip_network("0.0.0.0/0")]
        assert refusal(ip_address(address), opened) is None

    @pytest.mark.parametrize("address", NEVER)
    def test_are_never_where_no_setting_opens(self, address: str) -> None:
        assert refusal(ip_address(address), [ip_network(address), *EVERYWHERE]) == NEVER[address]

    def test_behind_an_opened_translator_are_judged_by_the_address_behind_it(self) -> None:
        opened = [ip_network("64:ff9b::/96")]
        assert refusal(ip_address("64:ff9b::808:808"), opened) is None
        assert refusal(ip_address("64:ff9b::a00:1"), opened) == "a private address"
        assert refusal(ip_address("64:ff9b::a9fe:a9fe"), opened) == "a metadata address of a cloud"


class TestOperatorsDestinations:
    @pytest.mark.parametrize("address", [*INSIDE, *PUBLIC])
    def test_may_be_private(self, address: str) -> None:
        assert refusal(ip_address(address), EVERYWHERE) is None

    @pytest.mark.parametrize("address", NEVER)
    def test_are_never_a_metadata_service_or_worse(self, address: str) -> None:
        assert refusal(ip_address(address), EVERYWHERE) == NEVER[address]


class TestHost:
    @pytest.mark.parametrize(
        ("text", "spelled"),
        [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("127.0.0.1.", "127.0.0.1"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("my_service", "my_service"),
            ("0:0:0:0:0:ffff:7f00:0001", "::ffff:7f00:1"),
            ("1.2.3.4.example", "1.2.3.4.example"),
        ],
    )
    def test_has_one_spelling(self, text: str, spelled: str) -> None:
        assert host(text) == spelled == host(spelled)

    @pytest.mark.parametrize(
        "text",
        [
            "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.1", "127.0.1", "0", "0x", "00.0.0.0", "1.2.3.4.5",
            "127.0.0.01", "256.0.0.1", "a.0x7f", "a.7", "fe80::1%eth0", "fe80::1%25eth0", "::1%", "", ".", "a..b",
            "-a.example", "a-.example", "a b", "a%20b", "a/b", "a\\b", "a@b", "a:1", "a#b", "é.example", "a\n",
            "x" * 64 + ".example", ".".join(["x" * 60] * 5),
        ],
    )  # fmt: skip
    def test_that_readers_take_differently_is_refused(self, text: str) -> None:
        with pytest.raises(Refused, match="is no host that can be reached: use a name, or an address in its usual"):
            host(text)

    @given(ipv4)
    def test_of_an_address_in_its_usual_form_is_that(self, address: IPv4Address) -> None:
        assert ipaddress.ip_address(host(str(address))) == address
