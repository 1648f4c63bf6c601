from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.webhook_guard import (
    GuardRules,
    Target,
    address_fault,
    addresses_fault,
    parse_address,
    target_fault,
)

STRICT = GuardRules()
PUBLIC_4 = ipaddress.ip_address("93.184.215.14")
PUBLIC_6 = ipaddress.ip_address("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def https(host: str, port: int = 443, **more: object) -> Target:
    return Target(scheme="https", host=host, port=port, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",  # noqa: S104 - refused
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.17.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.5",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:93.184.215.14",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_no_address_that_is_not_public_is_called(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert address_fault(address, STRICT)
    assert target_fault(https(text), STRICT)
    assert addresses_fault([PUBLIC_4, PUBLIC_6, address], STRICT), "one bad address is enough"


def test_public_addresses_are_called() -> None:
    assert not addresses_fault([PUBLIC_4, PUBLIC_6], STRICT)
    assert not target_fault(https("app.example"), STRICT)
    assert not target_fault(https(str(PUBLIC_6)), STRICT)


@given(st.ip_addresses(v=4))
def test_whatever_the_standard_library_calls_private_is_refused(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert address_fault(address, STRICT)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_reached_in_ipv6_dress(inner: ipaddress.IPv4Address) -> None:
    for prefix in ("::ffff:", "64:ff9b::", "::"):
        address = ipaddress.ip_address(f"{prefix}{inner}")
        assert address_fault(address, STRICT)
    high, low = divmod(int(inner), 1 << 16)
    assert address_fault(ipaddress.ip_address(f"2002:{high:x}:{low:x}::1"), STRICT)


def test_a_name_without_an_address_is_refused() -> None:
    assert addresses_fault([], STRICT)


def test_this_machines_own_public_address_is_refused() -> None:
    own = GuardRules(own=frozenset({PUBLIC_4}))
    assert "this machine" in address_fault(PUBLIC_4, own)
    assert not address_fault(PUBLIC_6, own)


def test_networks_are_allowed_by_name_and_nothing_beside_them() -> None:
    rules = GuardRules(networks=(ipaddress.ip_network("10.1.0.0/16"),))
    assert not address_fault(ipaddress.ip_address("10.1.2.3"), rules)
    assert address_fault(ipaddress.ip_address("10.2.0.1"), rules)
    assert address_fault(ipaddress.ip_address("::ffff:10.1.2.3"), rules)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (Target(scheme="http", host="app.example", port=80), "must be https"),
        (Target(scheme="ftp", host="app.example", port=21), "https://"),
        (Target(scheme="file", host="", port=0), "https://"),
        (https("app.example", has_user=True), "no user name"),
        (https("app.example", port=22), "ports 80, 443"),
        (https(""), "name a host"),
        (https("2130706433"), "usual spelling"),
        (https("127.1"), "usual spelling"),
        (https("0x7f000001"), "usual spelling"),
    ],
)
def test_addresses_are_refused_with_the_reason(target: Target, says: str) -> None:
    assert says in target_fault(target, STRICT)


def test_plain_http_is_for_hosts_on_the_list() -> None:
    rules = GuardRules(http_hosts=frozenset({"hooks.lan"}))
    assert not target_fault(Target(scheme="http", host="hooks.lan", port=80), rules)
    assert target_fault(Target(scheme="http", host="other.lan", port=80), rules)


def test_only_the_usual_spelling_is_an_address() -> None:
    assert parse_address("127.0.0.1") == ipaddress.ip_address("127.0.0.1")
    for text in ("127.1", "0x7f.1", "localhost", "010.0.0.1", ""):
        assert parse_address(text) is None
