"""Is a request addressed to this daemon, and does a page that opens a WebSocket come from it?

A page of others can have its own name resolve to this machine (DNS rebinding); its browser then sends that
name as Host. It cannot have an address, `localhost` or a name of the administrator's resolve elsewhere.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """A host and its port, as in a Host field or a URL.

    Args:
        name: In lower case, without brackets and final dot; empty when it is none.
        port: 0 where none is said.
    """

    name: str
    port: int


def authority_of(text: str) -> Authority:
    """Read `name`, `name:port`, `[::1]:port`; what is none of these has no name."""
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, port = text, ""
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        return Authority("", 0)
    bracketed = name.startswith("[") and name.endswith("]")
    if not bracketed and ":" in name:
        return Authority("", 0)
    bare = name[1:-1] if bracketed else name.removesuffix(".")
    return Authority(bare.lower(), int(port or 0))


def answers_to(host: str, names: frozenset[str]) -> bool:
    """Whether a Host field names this daemon: an address, this machine itself, or one of `names`."""
    name = authority_of(host).name
    return name in names or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def is_own_page(origin: str, host: str, names: frozenset[str]) -> bool:
    """Whether the page at `origin` is one of this daemon's, which was asked as `host`.

    One of `names` counts whatever the port: behind a front-end, Host may have become another.
    """
    scheme, separator, rest = origin.partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return False
    page, asked = authority_of(rest), authority_of(host)
    if not page.name:
        return False
    default = _DEFAULT_PORTS[scheme]
    same = page.name == asked.name and (page.port or default) == (asked.port or default)
    return same or page.name in names


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
