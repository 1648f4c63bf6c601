"""A daemon with prepared answers, on a real Unix socket or TCP port."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


@dataclass(kw_only=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.body)
        return document


@dataclass(kw_only=True)
class Reply:
    """A prepared answer; a body that is not bytes is sent chunk by chunk."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_reply(document: object, status: int = 200) -> Reply:
    return Reply(
        status=status, body=json.dumps(document).encode(), headers={"Content-Type": "application/json"}
    )


def problem(status: int, detail: str, *, title: str = "It failed", origin: str = "", **more: object) -> Reply:
    document = {"type": "/problems/x", "title": title, "status": status, "detail": detail, **more}
    headers = {"Content-Type": "application/problem+json"}
    if origin:
        headers["Gpud-Origin"] = origin
    return Reply(status=status, body=json.dumps(document).encode(), headers=headers)


class CannedDaemon:
    """Answers what the test prepared, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._routes: dict[tuple[str, str], Callable[[Seen], Reply]] = {}

    def on(
        self, method: str, path: str, reply: Reply | Callable[[Seen], Reply] | Mapping[str, object]
    ) -> None:
        if isinstance(reply, Mapping):
            reply = json_reply(reply)
        self._routes[method, path] = reply if callable(reply) else lambda _seen: reply

    def lists(self, path: str, *items: dict[str, object]) -> None:
        self.on("GET", path, {"items": list(items), "next": None})

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        route = self._routes.get((seen.method, seen.path))
        return route(seen) if route else problem(404, f"There is nothing at {seen.path}.", title="Not found")

    def asked(self, method: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    canned: CannedDaemon

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_any(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        seen = Seen(
            method=self.command,
            path=url.path,
            query=dict(parse_qsl(url.query)),
            headers={name.lower(): text for name, text in self.headers.items()},
            body=self.rfile.read(length),
        )
        self._send(self.canned.answer(seen))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any  # noqa: N815 the server's own spelling

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, text in reply.headers.items():
            self.send_header(name, text)
        if isinstance(reply.body, bytes):
            if reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in reply.body:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_args: object) -> None:
        pass


def handler_for(canned: CannedDaemon) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"canned": canned})


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True


def serve_unix(daemon: CannedDaemon, path: Path) -> socketserver.BaseServer:
    return _started(_UnixServer(str(path), handler_for(daemon)))


def serve_tcp(daemon: CannedDaemon) -> tuple[socketserver.BaseServer, str]:
    server = _TcpServer(("127.0.0.1", 0), handler_for(daemon))
    return _started(server), f"http://127.0.0.1:{server.server_address[1]}"


def _started(server: socketserver.BaseServer) -> socketserver.BaseServer:
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
