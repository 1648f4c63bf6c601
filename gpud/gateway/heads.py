"""What is a legal head, and what does it say? Parses request and response heads; pure.

llhttp (through httptools) decides what a header field is, and refuses bare CR and LF, folded lines,
repeated or malformed lengths, and a length beside a transfer coding. The start line and what llhttp
leaves open are decided here, so that a head that two readers could read differently is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httptools

from gpud.errors import BadFraming, HeadTooLarge
from gpud.gateway.framing import (
    NO_BODY,
    Body,
    ChunkedBody,
    EndlessBody,
    LengthBody,
)

if TYPE_CHECKING:
    from gpud.gateway.routing import Upstream

HEAD_BYTES_MAX = 64 * 1024
"""Longest head, request or response."""
TARGET_BYTES_MAX = 16 * 1024
"""Longest request target."""
FIELDS_MAX = 128
"""Most header fields in a head."""
LENGTH_MAX = 1 << 53

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]{0,23}) ([\x21\x22\x24-\x7e]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?].*)?\Z", re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*\Z")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")

# What a field means to the gateway; every other one is passed on as it is.
_DROP, _CONNECTION, _LENGTH, _CODING, _HOSTS, _EXPECT, _UPGRADE = range(7)
_AUTHORIZATION, _API_KEY, _TYPE, _FORWARDED_FOR, _SESSION, _OURS, _FORWARDED = range(7, 14)
_REPEATABLE, _PREFER = range(14, 16)
_PLAIN = -1
_SPELLINGS_MAX = 1024
_UNWELL = (502, 503, 504)
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))

_REQUEST_FIELDS = {
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"host": _HOSTS,
    b"expect": _EXPECT,
    b"upgrade": _UPGRADE,
    b"authorization": _AUTHORIZATION,
    b"x-api-key": _API_KEY,
    b"content-type": _TYPE,
    b"x-forwarded-for": _FORWARDED_FOR,
    b"x-forwarded-proto": _FORWARDED,
    b"x-forwarded-host": _FORWARDED,
    b"forwarded": _FORWARDED,
    b"x-session-id": _SESSION,
    b"idempotency-key": _REPEATABLE,
    b"prefer": _PREFER,
    b"x-gpud-request-id": _OURS,
    b"x-gpud-worker": _OURS,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"proxy-authorization": _DROP,
    b"proxy-authenticate": _DROP,
    b"te": _DROP,
    b"http2-settings": _DROP,
}
_RESPONSE_FIELDS = {
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"upgrade": _UPGRADE,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"proxy-authenticate": _DROP,
    b"x-gpud-request-id": _OURS,
    b"x-gpud-worker": _OURS,
    b"x-gpud-cold-start": _OURS,
    b"x-gpud-queue-ms": _OURS,
    b"gpud-origin": _OURS,
}


# The kind of each spelling met so far: looking it up is cheaper than lowering it.
_request_kinds: dict[bytes, int] = {}
_response_kinds: dict[bytes, int] = {}


class _Fields:
    """Collects what llhttp finds."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.items.append((name, value))


class RequestHead:
    """A request's head as the gateway understands it.

    `lines` are the fields that are passed on as they are, each ending in CRLF. The rest is here by
    name; hop-by-hop fields are gone. `credentials` go to the control API only; `forwarded` are the
    forwarding fields beside `X-Forwarded-For`. `upstream`, `token`, `start` and `end` follow from the rest
    and are filled in by who recalls heads. One head may stand for many requests: nothing changes it then.
    """

    def __init__(self, method: str, *, http10: bool) -> None:
        self.method = method
        self.target = ""
        self.http10 = http10
        self.keep_alive = not http10
        self.idempotent = method in _SAFE
        self.lines: list[bytes] = []
        self.host: bytes | None = None
        self.length: int | None = None
        self.chunked = self.expects = self.websocket = False
        self.authorization: str | None = None
        self.api_key: str | None = None
        self.credentials: tuple[bytes, ...] = ()
        self.content_type = self.forwarded_for = self.session = self.prefer = b""
        self.forwarded: tuple[bytes, ...] = ()
        self.upstream: Upstream | None = None
        self.token: str | None = None
        self.start = self.end = b""

    @property
    def body(self) -> Body:
        """Make what finds the end of the request's body."""
        if self.chunked:
            return ChunkedBody()
        return LengthBody(self.length) if self.length else NO_BODY

    def start_for(self, path: str) -> bytes:
        """Write the request line, with another path, and the fields that are passed on as they are."""
        line = f"{self.method} {path} HTTP/1.1\r\nHost: ".encode("ascii")
        return b"".join((line, self.host or b"gpud", b"\r\n", *self.lines))


class ResponseHead:
    """A response's head as the gateway understands it.

    `lines` and `start` are as in `RequestHead`; `end` is framing and the empty line.
    """

    def __init__(self, status: int, reason: bytes, *, keep_alive: bool) -> None:
        self.status = status
        self.reason = reason
        self.keep_alive = keep_alive
        self.lines: list[bytes] = []
        self.length: int | None = None
        self.chunked = self.websocket = self.bodiless = False
        self.unwell = status in _UNWELL
        """The worker says that it cannot serve."""
        self.start = self.end = b""

    @property
    def endless(self) -> bool:
        """The body ends with its connection."""
        return self.length is None and not self.chunked and not self.bodiless

    @property
    def body(self) -> Body:
        """Make what finds the end of the answer's body."""
        if self.bodiless:
            return NO_BODY
        if self.chunked:
            return ChunkedBody()
        return EndlessBody() if self.length is None else LengthBody(self.length)


def check_unfinished(received: bytes) -> None:
    """Refuse the beginning of a head that cannot become a legal one.

    Raises:
        BadFraming: A line ends in a bare LF or holds a bare CR.
        HeadTooLarge: No end within the limit.
    """
    if _BARE.search(received) is not None:
        raise BadFraming("A line of the head does not end in CRLF.")
    if len(received) > HEAD_BYTES_MAX:
        raise HeadTooLarge(f"The head is longer than {HEAD_BYTES_MAX} bytes.")


def parse_request(raw: bytes) -> RequestHead:
    """Read a request's head.

    Args:
        raw: From its first byte to the empty line, included.

    Raises:
        BadFraming: Not a request that may be passed on; the message says why.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise BadFraming("The request line is not `METHOD target HTTP/1.1`.")
    method, target, minor = line.groups()
    if method == b"CONNECT":
        raise BadFraming("CONNECT is not served: gpud is no forward proxy.")
    if len(raw) > HEAD_BYTES_MAX or len(target) > TARGET_BYTES_MAX:
        raise HeadTooLarge(f"The head may have {HEAD_BYTES_MAX} bytes and the target {TARGET_BYTES_MAX}.")
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadFraming(f"The head is malformed: {error}.") from error
    head = RequestHead(method.decode("ascii"), http10=minor == b"0")
    _read_request_fields(head, fields.items)
    head.target = _origin_form(head, target)
    if head.chunked and head.http10:
        raise BadFraming("An HTTP/1.0 request cannot have a Transfer-Encoding.")
    if head.host is None and not head.http10:
        raise BadFraming("An HTTP/1.1 request must have a Host field.")
    return head


def _origin_form(head: RequestHead, target: bytes) -> str:
    if target.startswith(b"/"):
        return target.decode("ascii")
    if target == b"*" and head.method == "OPTIONS":
        return "*"
    absolute = _ABSOLUTE.match(target)
    if absolute is None or _HOST.match(absolute.group(1)) is None:
        raise BadFraming("The request target must be a path.")
    head.host, rest = absolute.group(1), (absolute.group(2) or b"/").decode("ascii")
    return rest if rest.startswith("/") else "/" + rest


def _read_request_fields(  # noqa: C901 - one branch a field
    head: RequestHead, items: list[tuple[bytes, bytes]]
) -> None:
    if len(items) > FIELDS_MAX:
        raise HeadTooLarge(f"The head has more than {FIELDS_MAX} fields.")
    lines = head.lines
    kinds = _request_kinds
    connection = upgrade = b""
    for name, value in items:
        kind = kinds.get(name)
        if kind is None:
            kind = _learn(kinds, _REQUEST_FIELDS, name)
        if kind == _PLAIN:
            lines.append(name + b": " + value + b"\r\n")
        elif kind == _HOSTS:
            host = value.strip(b" \t")
            if head.host is not None or _HOST.match(host) is None:
                raise BadFraming("There must be one well-formed Host field.")
            head.host = host
        elif kind == _LENGTH:
            head.length = _length(value.strip(b" \t"))
        elif kind == _CONNECTION:
            connection += b"," + value.lower()
        elif kind == _UPGRADE:
            upgrade = value.strip().lower()
        else:
            _read_request_field(head, kind, name, value.strip(b" \t"))
    if connection:
        tokens = [token.strip() for token in connection.split(b",")]
        head.keep_alive = b"close" not in tokens and (not head.http10 or b"keep-alive" in tokens)
        head.websocket = upgrade == b"websocket" and b"upgrade" in tokens and not head.http10
        head.lines = _without_named(lines, tokens)


def _read_request_field(  # noqa: C901 - one branch a field
    head: RequestHead, kind: int, name: bytes, value: bytes
) -> None:
    line = name + b": " + value + b"\r\n"
    if kind == _AUTHORIZATION:
        head.authorization = value.decode("latin-1")
        head.credentials += (line,)
    elif kind == _TYPE:
        head.content_type = value
        head.lines.append(line)
    elif kind == _CODING:
        if value.lower() != b"chunked" or head.chunked:
            raise BadFraming("The only Transfer-Encoding that is read is `chunked`.")
        head.chunked = True
    elif kind == _API_KEY:
        head.api_key = value.decode("latin-1")
        head.credentials += (line,)
    elif kind == _EXPECT:
        if value.lower() != b"100-continue":
            raise BadFraming("The only Expect that is met is `100-continue`.")
        head.expects = not head.http10
    elif kind == _FORWARDED_FOR:
        head.forwarded_for += b", " + value if head.forwarded_for else value
    elif kind == _FORWARDED:
        head.forwarded += (line,)
    elif kind == _SESSION:
        head.session = value
        head.lines.append(line)
    elif kind == _PREFER:
        head.prefer += b"," + value if head.prefer else value
        head.lines.append(line)
    elif kind == _REPEATABLE:
        head.idempotent = True
        head.lines.append(line)


def _learn(kinds: dict[bytes, int], known: dict[bytes, int], name: bytes) -> int:
    """Look a field up whatever its spelling, and remember the spelling while there is room."""
    kind = known.get(name.lower(), _PLAIN)
    if len(kinds) < _SPELLINGS_MAX:
        kinds[name] = kind
    return kind


def parse_response(raw: bytes, method: str, *, trusted: bool = False) -> ResponseHead:
    """Read a response's head.

    Args:
        raw: From its first byte to the empty line, included.
        method: Of the request it answers: it decides whether there is a body.
        trusted: It comes from gpud itself, so its `X-Gpud-*` fields are true.

    Raises:
        BadFraming: Not a response that may be passed on.
    """
    line = _STATUS_LINE.match(raw)
    if line is None:
        raise BadFraming("the status line is not `HTTP/1.1 code reason`")
    minor, code, reason = line.groups()
    status = int(code)
    fields = _Fields()
    try:
        httptools.HttpResponseParser(fields).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadFraming(f"the head is malformed: {error}") from error
    head = ResponseHead(status, reason or b"", keep_alive=minor == b"1")
    _read_response_fields(head, fields.items, trusted=trusted, http10=minor == b"0")
    head.bodiless = method == "HEAD" or status < 200 or status in (204, 304)
    head.keep_alive = head.keep_alive and not head.endless
    return head


def _read_response_fields(  # noqa: C901 - one branch a field
    head: ResponseHead, items: list[tuple[bytes, bytes]], *, trusted: bool, http10: bool
) -> None:
    if len(items) > FIELDS_MAX:
        raise BadFraming(f"the head has more than {FIELDS_MAX} fields")
    lines = head.lines
    kinds = _response_kinds
    connection = b""
    for name, value in items:
        kind = kinds.get(name)
        if kind is None:
            kind = _learn(kinds, _RESPONSE_FIELDS, name)
        if kind == _PLAIN or (kind == _OURS and trusted):
            lines.append(name + b": " + value + b"\r\n")
        elif kind == _LENGTH:
            head.length = _length(value.strip(b" \t"))
        elif kind == _CODING:
            if value.strip(b" \t").lower() != b"chunked" or head.chunked or http10:
                raise BadFraming("the only Transfer-Encoding that is read is `chunked`")
            head.chunked = True
        elif kind == _UPGRADE:
            head.websocket = value.strip().lower() == b"websocket"
        elif kind == _CONNECTION:
            connection += b"," + value.lower()
    if connection:
        tokens = [token.strip() for token in connection.split(b",")]
        head.keep_alive = b"close" not in tokens and (not http10 or b"keep-alive" in tokens)
        head.lines = _without_named(lines, tokens)


def _without_named(lines: list[bytes], tokens: list[bytes]) -> list[bytes]:
    """Take out the fields a Connection field names: they were meant for this hop."""
    named = [token for token in tokens if token and token not in (b"close", b"keep-alive", b"upgrade")]
    if not named:
        return lines
    return [line for line in lines if line.partition(b":")[0].lower() not in named]


def _length(value: bytes) -> int:
    if not value.isdigit() or int(value) > LENGTH_MAX:
        raise BadFraming("A Content-Length must be one decimal number.")
    return int(value)
