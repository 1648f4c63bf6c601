"""Reads heads, and recalls what the same head said before: clients and workers repeat themselves.

A keep-alive client sends the same fields with every request, and a worker answers with the same ones;
what differs most often is the length of the body. A head is therefore recalled by its bytes, and by its
bytes without its Content-Length line. Nothing is assumed: a head that was not read before, byte for byte,
is parsed in full. Recalled heads are shared, so nobody may change one.
"""

from __future__ import annotations

import re
from typing import TypeVar

from gpud.gateway import answers
from gpud.gateway.credentials import token_of
from gpud.gateway.heads import RequestHead, ResponseHead, parse_request, parse_response
from gpud.gateway.respond_async import preferred
from gpud.gateway.routing import ByModel, ToEndpoint, choose_upstream, endpoint_in_host

HEADS_MAX = 512
"""Heads kept; all are forgotten when there are more."""
HEAD_BYTES_MAX = 2048
"""Longest head that is kept."""

_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})(?=\r\n)")
_Head = TypeVar("_Head", RequestHead, ResponseHead)


class RequestHeads:
    """Requests' heads; what does not depend on the moment is decided once for each.

    Args:
        domain: `server.domain`; empty for none.
    """

    def __init__(self, domain: str = "") -> None:
        self._domain = domain
        self._known: dict[bytes, RequestHead] = {}
        self._measured: dict[bytes, RequestHead] = {}

    def read(self, raw: bytes) -> RequestHead:
        """Read a head; arguments and errors as `parse_request`."""
        return self._known.get(raw) or self._learn(raw)

    def _learn(self, raw: bytes) -> RequestHead:
        key = _without_length(raw)
        measured = self._measured.get(key[0]) if key is not None else None
        if key is None or measured is None:
            head = parse_request(raw)
            _prepare(head, self._domain)
        else:
            head = _copy(measured)
            head.length = key[1]
        head.end = answers.end_of_request(head)
        _keep(self._known, raw, head)
        if key is not None and measured is None and head.length is not None:
            _keep(self._measured, key[0], head)
        return head


class ResponseHeads:
    """Workers' heads."""

    def __init__(self) -> None:
        self._known: dict[bytes, ResponseHead] = {}
        self._measured: dict[bytes, ResponseHead] = {}

    def read(self, raw: bytes, method: str) -> ResponseHead:
        """Read a head; arguments and errors as `parse_response`."""
        if method == "HEAD":
            return parse_response(raw, method)
        return self._known.get(raw) or self._learn(raw, method)

    def _learn(self, raw: bytes, method: str) -> ResponseHead:
        key = _without_length(raw)
        measured = self._measured.get(key[0]) if key is not None else None
        if key is None or measured is None:
            head = parse_response(raw, method)
            head.start = answers.start_of_response(head)
        else:
            head = _copy(measured)
            head.length = key[1]
        head.end = answers.framing_of_response(head) + b"\r\n"
        _keep(self._known, raw, head)
        if key is not None and measured is None and head.length is not None:
            _keep(self._measured, key[0], head)
        return head


def _without_length(raw: bytes) -> tuple[bytes, int] | None:
    """Take the first Content-Length line out: what is left, and the length; None without such a line."""
    line = _LENGTH_LINE.search(raw)
    return None if line is None else (raw[: line.start()] + raw[line.end() :], int(line.group(1)))


def _prepare(head: RequestHead, domain: str) -> None:
    upstream = choose_upstream(head.method, head.target, head.host, domain)
    if head.prefer and isinstance(upstream, ToEndpoint) and endpoint_in_host(head.host, domain) is None:
        upstream = preferred(head, upstream)
    head.upstream = upstream
    head.token = token_of(head.authorization, head.api_key)
    if isinstance(upstream, ToEndpoint | ByModel):
        head.start = head.start_for(upstream.target)


def _keep(known: dict[bytes, _Head], key: bytes, head: _Head) -> None:
    if len(key) > HEAD_BYTES_MAX:
        return
    if len(known) >= HEADS_MAX:
        known.clear()
    known[key] = head


def _copy(head: _Head) -> _Head:
    copied: _Head = object.__new__(type(head))
    copied.__dict__.update(head.__dict__)
    return copied
