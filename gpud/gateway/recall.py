"""Reads heads, and recalls what the same head said before: clients and workers repeat themselves.

A keep-alive client sends the same fields with every request, and a worker answers with the same ones;
what differs most often is the length of the body. A head is therefore recalled by its bytes without its
Content-Length line. Nothing is assumed: a head that was not read before, byte for byte, is parsed in full.
"""

from __future__ import annotations

import re
from typing import TypeVar

from gpud.gateway.credentials import token_of
from gpud.gateway.framing import NO_BODY, ChunkedBody, EndlessBody, LengthBody
from gpud.gateway.heads import RequestHead, ResponseHead, parse_request, parse_response
from gpud.gateway.routing import ToEndpoint, choose_upstream

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

    def read(self, raw: bytes) -> RequestHead:
        """Read a head; arguments and errors as `parse_request`."""
        line = _LENGTH_LINE.search(raw)
        key = raw if line is None else raw[: line.start()] + raw[line.end() :]
        known = self._known.get(key)
        if known is None or (line is not None and (known.chunked or known.length is not None)):
            head = parse_request(raw)
            _prepare(head, self._domain)
            _keep(self._known, key, head, measured=line is not None)
            return head
        head = _copy(known)
        if line is not None:
            head.length = int(line.group(1))
        if head.chunked:
            head.body = ChunkedBody()
        else:
            head.body = LengthBody(head.length) if head.length else NO_BODY
        return head


class ResponseHeads:
    """Workers' heads."""

    def __init__(self) -> None:
        self._known: dict[bytes, ResponseHead] = {}

    def read(self, raw: bytes, method: str) -> ResponseHead:
        """Read a head; arguments and errors as `parse_response`."""
        line = _LENGTH_LINE.search(raw)
        key = raw if line is None else raw[: line.start()] + raw[line.end() :]
        known = self._known.get(key)
        if known is None or (line is not None and (known.chunked or known.length is not None)):
            head = parse_response(raw, method)
            if type(head.body) is not EndlessBody:
                _keep(self._known, key, head, measured=line is not None)
            return head
        head = _copy(known)
        if line is not None:
            head.length = int(line.group(1))
        if method == "HEAD" or head.status < 200 or head.status in (204, 304):
            head.body = NO_BODY
        elif head.chunked:
            head.body = ChunkedBody()
        elif head.length is not None:
            head.body = LengthBody(head.length)
        else:
            head.body = EndlessBody()
            head.keep_alive = False
        return head


def _prepare(head: RequestHead, domain: str) -> None:
    head.upstream = choose_upstream(head.method, head.target, head.host, domain)
    head.token = token_of(head.authorization, head.api_key)
    if isinstance(head.upstream, ToEndpoint):
        head.start = head.start_for(head.upstream.target)


def _keep(known: dict[bytes, _Head], key: bytes, head: _Head, *, measured: bool) -> None:
    if len(key) > HEAD_BYTES_MAX:
        return
    if len(known) >= HEADS_MAX:
        known.clear()
    kept = _copy(head)
    if measured:
        kept.length = None
    kept.body = NO_BODY
    known[key] = kept


def _copy(head: _Head) -> _Head:
    copied: _Head = object.__new__(type(head))
    copied.__dict__.update(head.__dict__)
    return copied
