"""May gpud call this address? What a receiver may be, and what it must never be.

A webhook's address comes from whoever may register one, and the daemon calls it from inside the
network: so the name is resolved first, every address it has is judged, and the call goes to an
address that was judged.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_CHARACTERS_MAX = 2000

_NETWORKS = {
    "0.0.0.0/8": "is of this network",
    "100.64.0.0/10": "is a carrier's shared address",
    "169.254.0.0/16": "is link-local, where cloud metadata services are",
    "192.0.0.0/24": "is reserved",
    "198.18.0.0/15": "is for benchmarks",
    "240.0.0.0/4": "is reserved",
    "fd00:ec2::254/128": "is a cloud metadata service",
    "64:ff9b::/96": "is translated to an IPv4 address",
    "64:ff9b:1::/48": "is translated to a private IPv4 address",
    "2002::/16": "is a 6to4 address",
    "2001::/32": "is a Teredo address",
    "fec0::/10": "is site-local",
}
_REFUSED = tuple((ipaddress.ip_network(text), why) for text, why in _NETWORKS.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRules:
    """What the operator allows beyond public https receivers.

    Args:
        http_hosts: Hosts that may be called without TLS.
        networks: Networks that may be called though they are private.
        ports: Legal ports.
        own: Addresses of this machine, which are never called unless in `networks`.
    """

    http_hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({80, 443})
    own: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The parts of an address that are judged, as the one URL parser read them.

    Args:
        host: In lower case, IDNA-encoded, without brackets.
    """

    scheme: str
    host: str
    port: int
    has_user: bool = False


def target_fault(target: Target, rules: GuardRules) -> str:
    """What is wrong with an address before its name is resolved; empty when nothing is."""
    if target.scheme not in ("https", "http"):
        return f"must begin with https://, not {target.scheme[:20] or 'nothing'}:"
    if target.has_user:
        return "must hold no user name or password"
    if not target.host:
        return "must name a host"
    if target.scheme == "http" and target.host not in rules.http_hosts:
        return (
            f"must be https: plain http shows the message to everyone on the way "
            f"(webhooks.http_hosts in gpud.toml would allow {target.host})"
        )
    if target.port not in rules.ports:
        listed = ", ".join(str(port) for port in sorted(rules.ports))
        return f"must use one of the ports {listed}, not {target.port} (webhooks.ports in gpud.toml)"
    literal = parse_address(target.host)
    if literal is not None:
        return address_fault(literal, rules)
    if target.host.rstrip(".").replace(".", "").isdigit() or target.host.startswith("0x"):
        return "must be a host name or an address in its usual spelling"
    return ""


def parse_address(text: str) -> Address | None:
    """Read an address in its usual spelling; None when it is a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def addresses_fault(addresses: Iterable[Address], rules: GuardRules) -> str:
    """What is wrong with what a name resolved to: one address that must not be called is enough."""
    found = tuple(addresses)
    if not found:
        return "has no address"
    return next((fault for fault in (address_fault(one, rules) for one in found) if fault), "")


def address_fault(address: Address, rules: GuardRules) -> str:
    """Why an address must not be called; empty when it may be."""
    if any(address.version == net.version and address in net for net in rules.networks):
        return ""
    why = _why_not(address, rules)
    if not why:
        return ""
    return f"leads to {address}, which {why} (webhooks.networks in gpud.toml would allow it)"


def _why_not(address: Address, rules: GuardRules) -> str:  # noqa: C901 - one line a kind of address
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            # Whatever the inner one is, nobody publishes such an address with good intent.
            return "is an IPv4 address in IPv6 dress"
        if address.scope_id is not None:
            return "is link-local"
        if int(address) >> 32 == 0 and int(address) > 1:
            return "is an IPv4 address in IPv6 dress"
    if address in rules.own:
        return "is this machine"
    if address.is_unspecified:
        return "is no address"
    if address.is_loopback:
        return "is this machine"
    for network, why in _REFUSED:
        if address.version == network.version and address in network:
            return why
    if address.is_multicast:
        return "is multicast"
    if address.is_link_local:
        return "is link-local"
    if address.is_private or not address.is_global:
        return "is private"
    return ""
