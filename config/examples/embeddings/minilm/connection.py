"""What happens on one connection: requests in turn, read and written through h11."""

import contextlib
import json
import select
import socket
import time
import traceback
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11

from minilm import openai
from minilm.service import Gone, Service

if TYPE_CHECKING:
    from minilm.server import Server

BODY_BYTES_MAX = 8 << 20
READ_BYTES = 65536
IDLE_S = 75.0
"""A silent connection is closed after this long, also in the middle of a request."""

LINGER_S = 2.0
"""How long a refused body is still read, and thrown away."""

ROUTES = {"/v1/embeddings": "POST", "/v1/models": "GET", "/health": "GET"}


def serve(connection: socket.socket, service: Service, server: "Server") -> None:
    """Answer the requests of one connection until either side closes it."""
    connection.settimeout(IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _Connection(connection, service, server).run()


class _Connection:
    def __init__(self, connection: socket.socket, service: Service, server: "Server") -> None:
        self._socket = connection
        self._service = service
        self._server = server
        self._http = h11.Connection(h11.SERVER)

    def run(self) -> None:
        """Serve requests until the connection cannot be used again."""
        with contextlib.suppress(OSError, Gone):  # the peer has gone or is silent: nobody to tell
            while True:
                try:
                    request = self._next()
                    if not isinstance(request, h11.Request):
                        return
                    with self._server:
                        self._respond(request)
                except h11.RemoteProtocolError as error:
                    self._refuse_unreadable(error)
                    return
                if self._server.stopping or self._http.our_state is not h11.DONE:
                    return
                if self._http.their_state is not h11.DONE:
                    self._linger()
                    return
                self._http.start_next_cycle()

    def _respond(self, request: h11.Request) -> None:
        status, extra = 200, []
        try:
            answer = self._answer(request)
        except openai.Refusal as refusal:
            status, answer = refusal.status, refusal.body
            allowed = ROUTES.get(_path(request))
            if status == HTTPStatus.METHOD_NOT_ALLOWED and allowed:
                extra = [("Allow", allowed)]
        except (OSError, Gone, h11.RemoteProtocolError):
            raise
        except Exception:  # noqa: BLE001 - one broken request must not go unanswered
            traceback.print_exc()
            failure = openai.Refusal("The model failed on this request; its log says why.", status=500)
            status, answer = failure.status, failure.body
        self._send(status, answer, extra, head_only=request.method == b"HEAD")

    def _answer(self, request: h11.Request) -> dict[str, Any]:
        path, method = _path(request), request.method.decode("ascii")
        allowed = ROUTES.get(path)
        if allowed is None:
            known = ", ".join(f"{verb} {route}" for route, verb in ROUTES.items())
            raise openai.Refusal(f"There is no {path} here. This server has: {known}.", status=404)
        if method != allowed and (method, allowed) != ("HEAD", "GET"):
            raise openai.Refusal(f"{path} takes {allowed}, not {method}.", status=405)
        body = self._body()
        if path == "/health":
            return {"status": "ok", "boot_ms": self._service.boot_ms}
        if path == "/v1/models":
            return openai.models()
        asked = openai.parse(body)
        vectors, tokens = self._service.embed(asked.texts, wanted=self._peer_is_there)
        return openai.answer(asked, vectors, tokens=tokens)

    def _body(self) -> bytes:
        if self._http.they_are_waiting_for_100_continue:
            self._socket.sendall(
                self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        parts: list[bytes] = []
        size_bytes = 0
        while isinstance(event := self._next(), h11.Data):
            size_bytes += len(event.data)
            if size_bytes > BODY_BYTES_MAX:
                raise openai.Refusal(
                    f"The body is longer than {BODY_BYTES_MAX} bytes. Send fewer texts.", status=413
                )
            parts.append(bytes(event.data))
        if not isinstance(event, h11.EndOfMessage):
            raise Gone
        return b"".join(parts)

    def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event of the peer, reading as needed."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self._socket.recv(READ_BYTES))
        return event

    def _send(
        self, status: int, answer: dict[str, Any], extra: list[tuple[str, str]], *, head_only: bool = False
    ) -> None:
        body = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *extra]
        if self._server.stopping or self._http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))  # a request body left unread cannot be skipped
        reason = HTTPStatus(status).phrase
        parts = [self._http.send(h11.Response(status_code=status, headers=headers, reason=reason))]
        if not head_only:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._socket.sendall(b"".join(part for part in parts if part))

    def _linger(self) -> None:
        """Read on for a moment: closing on unread bytes would reset the connection under the answer."""
        self._socket.shutdown(socket.SHUT_WR)
        self._socket.settimeout(LINGER_S)
        ends_s = time.monotonic() + LINGER_S
        while self._socket.recv(READ_BYTES) and time.monotonic() < ends_s:
            pass

    def _refuse_unreadable(self, error: h11.RemoteProtocolError) -> None:
        """Answer something that is not HTTP, if the protocol still allows an answer."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        refusal = openai.Refusal(
            f"This is not a legal HTTP/1.1 request: {error}.", status=error.error_status_hint
        )
        self._send(refusal.status, refusal.body, [])
        self._linger()

    def _peer_is_there(self) -> bool:
        """Say whether the peer still holds the connection; pipelined requests count as presence."""
        try:
            readable, _, _ = select.select([self._socket], [], [], 0)
            return not readable or self._socket.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False


def _path(request: h11.Request) -> str:
    return str(request.target.decode("latin-1").partition("?")[0])
