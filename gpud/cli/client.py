"""Asks the daemon: HTTP/1.1 over its Unix socket or over TCP.

Only `socket` and `json`, because `http.client` alone would take half of a command's time.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from gpud.cli import exits, wire
from gpud.cli.exits import BadUsage, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
_PAGE_ITEMS_MAX = 100_000
_PLAIN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Address(NamedTuple):
    """Where a daemon listens over TCP."""

    host: str
    port: int
    tls: bool
    prefix: str


class Problem(CommandFailed):
    """The daemon refused, with a problem document.

    Args:
        status: The HTTP status.
        document: The problem document.
    """

    def __init__(self, status: int, document: Mapping[str, object], *, todo: str = "") -> None:
        title = str(document.get("title") or "The daemon refused").rstrip(".")
        detail = str(document.get("detail") or "")
        fields = document.get("fields")
        faults = {str(k): str(v) for k, v in fields.items()} if isinstance(fields, dict) else {}
        what = f"{title}." if faults or not detail else detail
        super().__init__(what, todo=todo, code=exits.code_for_status(status), fields=faults)
        self.status = status
        self.document = document


def parse_url(url: str) -> Address:
    """Read `http://host:port[/prefix]`.

    Raises:
        BadUsage: It is not such a URL.
    """
    scheme, separator, rest = url.partition("://")
    authority, slash, prefix = rest.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, "443" if scheme == "https" else "80"
    if not separator or scheme not in ("http", "https") or not host or not port.isdigit() or "@" in authority:
        raise BadUsage(
            f"{url!r} is not the URL of a daemon.", todo="Say, for example, http://127.0.0.1:8700."
        )
    return Address(host.strip("[]"), int(port), scheme == "https", (slash + prefix).rstrip("/"))


class Client:
    """A daemon, over one connection that is kept between calls.

    Args:
        target: The path of a Unix socket, or a TCP address.
        key: API key; over the Unix socket the peer's user is known and none is needed.
        timeout_s: Longest silence of the daemon before a call is given up.
    """

    def __init__(self, target: str | Address, *, key: str = "", timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._target = target
        self._key = key
        self._timeout_s = timeout_s
        self._connection: wire.Connection | None = None

    @property
    def base_url(self) -> str:
        """The URL users reach the daemon under; empty over a Unix socket."""
        if isinstance(self._target, str):
            return ""
        at = self._target
        host = f"[{at.host}]" if ":" in at.host else at.host
        return f"{'https' if at.tls else 'http'}://{host}:{at.port}{at.prefix}"

    @property
    def named(self) -> str:
        """Where the daemon is asked, for people."""
        return self._target if isinstance(self._target, str) else self.base_url

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, object]:
        """GET a document."""
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        query: Mapping[str, object] | None = None,
    ) -> dict[str, object]:
        """Call the API and return its document; an empty one when the answer has no body.

        Raises:
            Problem: The daemon refused.
            CommandFailed: The daemon cannot be reached, or does not answer.
        """
        headers = {"Accept": "application/json"}
        body = b""
        if document is not None:
            body = json.dumps(document).encode()
            headers["Content-Type"] = "application/json"
        if method == "POST":
            headers["Idempotency-Key"] = os.urandom(16).hex()
        answer = self.send(method, path + _query_text(query), headers=headers, body=body)
        content = answer.read()
        if answer.status >= 400:
            raise self.problem(answer, content)
        return _document(content)

    def items(self, path: str, query: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """GET every item of a paged list."""
        found: list[dict[str, object]] = []
        cursor: object = None
        while True:
            page = self.get(path, {**(query or {}), "cursor": cursor})
            items = page.get("items")
            found += items if isinstance(items, list) else []
            following = page.get("next")
            if not following or following == cursor or len(found) >= _PAGE_ITEMS_MAX:
                return found
            cursor = following

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: wire.Body = b"",
        timeout_s: float | None = -1.0,
    ) -> wire.Answer:
        """Send a request and return the answer once its head is here.

        Args:
            method: HTTP method.
            path: Path and query.
            headers: Beside Host, the key and the body's length.
            body: Bytes, or chunks with their total length.
            timeout_s: Longest silence; None for no bound, negative for the client's own.
        """
        limit_s = self._timeout_s if timeout_s is not None and timeout_s < 0 else timeout_s
        kept = self._connection
        if kept is not None and kept.usable:
            try:
                return kept.send(self._head(method, path, headers or {}), body, limit_s).answer()
            except wire.ConnectionLost:
                # The daemon closed the idle connection; the request did not run, or carries a key that makes
                # a second one safe.
                self.close()
        return self.answer(self.begin(method, path, headers=headers, body=body, timeout_s=limit_s))

    def begin(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: wire.Body = b"",
        timeout_s: float | None = None,
    ) -> wire.Pending:
        """Send a request over a new connection and do not wait for its answer."""
        self.close()
        self._connection = self._connect()
        return self._connection.send(self._head(method, path, headers or {}), body, timeout_s)

    def take_over(self) -> tuple[socket.socket, bytes]:
        """Take the connection, on which another protocol is spoken from here on, with what came of it."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise CommandFailed("There is no connection to take over.")
        return connection.take_over()

    def answer(self, pending: wire.Pending) -> wire.Answer:
        """The answer of a request that was begun, once its head is here."""
        try:
            return pending.answer()
        except wire.ConnectionLost as error:
            raise CommandFailed(
                "The daemon closed the connection before it answered.",
                todo="Look at its log: journalctl -u gpud, or the terminal of gpud serve.",
                code=exits.UNREACHABLE,
            ) from error

    def events(
        self, path: str, query: Mapping[str, object] | None = None, *, last_id: str = ""
    ) -> Iterator[dict[str, object]]:
        """Follow a stream of server-sent events, those after `last_id`; ends when the daemon ends it."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        answer = self.send("GET", path + _query_text(query), headers=headers, timeout_s=None)
        if answer.status >= 400:
            raise self.problem(answer, answer.read())
        for text in wire.sse_messages(answer):
            yield _document(text.encode())

    def payloads(self, path: str) -> Iterator[str]:
        """The data of each server-sent event of an answer, as it comes."""
        answer = self.send("GET", path, headers={"Accept": "text/event-stream"}, timeout_s=None)
        if answer.status >= 400:
            raise self.problem(answer, answer.read())
        yield from wire.sse_messages(answer)

    def problem(self, answer: wire.Answer, content: bytes) -> Problem:
        """The failure a refusing answer stands for."""
        document: dict[str, object] = {}
        if "json" in answer.headers.get("content-type", ""):
            document = _document(content)
            if isinstance(document.get("error"), str):  # the short form of RunPod's job API
                document = {"title": "The daemon refused", "detail": document["error"]}
        if not document:
            excerpt = content[:200].decode("utf-8", "replace").strip()
            document = {"title": f"The daemon answered {answer.status} {answer.reason}", "detail": excerpt}
        todo = ""
        if answer.status == 401:
            todo = self._advice_on_keys()
        return Problem(answer.status, document, todo=todo)

    def _advice_on_keys(self) -> str:
        if isinstance(self._target, str):
            return "Run this as root or as the daemon's user, or use --url with a key in GPUD_KEY."
        if self._key:
            return (
                "GPUD_KEY holds a key that is not valid; gpud key create on the daemon's machine makes one."
            )
        return "Put a key into GPUD_KEY; gpud key create makes one on the daemon's machine."

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> wire.Head:
        prefix = "" if isinstance(self._target, str) else self._target.prefix
        host = "gpud" if isinstance(self._target, str) else f"{self._target.host}:{self._target.port}"
        given = {name.lower() for name in headers}
        own = {"Host": host, "User-Agent": "gpud-cli", "Accept-Encoding": "identity"}
        if self._key:
            own["Authorization"] = f"Bearer {self._key}"
        kept = {name: text for name, text in own.items() if name.lower() not in given}
        return wire.Head(method, prefix + path, {**kept, **headers})

    def _connect(self) -> wire.Connection:
        if isinstance(self._target, str):
            return wire.Connection(_connect_unix(self._target))
        return wire.Connection(_connect_tcp(self._target))


def _connect_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise _unix_failure(path, error) from error
    return connection


def _unix_failure(path: str, error: OSError) -> CommandFailed:
    elsewhere = "If it runs with another run_dir, say --socket PATH or set GPUD_SOCKET."
    start = f"Start it with gpud serve, or systemctl start gpud. {elsewhere}"
    match error:
        case FileNotFoundError():
            what, todo = f"gpud is not running: there is no socket {path}.", start
        case ConnectionRefusedError():
            what = f"gpud is not running: nobody listens on {path}, which an earlier daemon left behind."
            todo = start
        case PermissionError():
            what = f"You may not use {path}: it belongs to the daemon's user."
            todo = "Run this as that user (sudo), or use --url with a key in GPUD_KEY."
            return CommandFailed(what, todo=todo, code=exits.NOT_ALLOWED)
        case _:
            what = f"The socket {path} cannot be used: {error.strerror or error}."
            todo = elsewhere
    return CommandFailed(what, todo=todo, code=exits.UNREACHABLE)


def _connect_tcp(at: Address) -> socket.socket:
    try:
        connection = socket.create_connection((at.host, at.port), timeout=CONNECT_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not at.tls:
            return connection
        import ssl  # noqa: PLC0415 - its import is slow, and the local daemon needs none

        with connection:  # Closes the plain socket when TLS cannot be had; else TLS has taken it over.
            return ssl.create_default_context().wrap_socket(connection, server_hostname=at.host)
    except OSError as error:
        raise CommandFailed(
            f"No daemon can be reached at {at.host}:{at.port}: {error.strerror or error}.",
            todo="Check the address in --url or GPUD_URL, and that gpud serve runs there.",
            code=exits.UNREACHABLE,
        ) from error


def quoted(text: str) -> str:
    """Percent-encode a text for a path or a query; `urllib.parse` would take 4 ms to import."""
    return "".join(
        chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def _query_text(query: Mapping[str, object] | None) -> str:
    pairs = [
        f"{name}={quoted(str(value))}" for name, value in (query or {}).items() if value not in (None, "")
    ]
    return f"?{'&'.join(pairs)}" if pairs else ""


def path_of(*parts: str) -> str:
    """A path of the API, its parts quoted."""
    return "/" + "/".join(quoted(part) for part in parts)


def _document(content: bytes) -> dict[str, object]:
    if not content.strip():
        return {}
    try:
        document = json.loads(content)
    except ValueError:
        raise CommandFailed(
            "What answered does not speak gpud's API: its answer is not JSON.",
            todo="Check the address; it may belong to another service.",
            code=exits.UNREACHABLE,
        ) from None
    return document if isinstance(document, dict) else {"items": document}
