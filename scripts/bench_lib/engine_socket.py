"""The bare arm: the engine over its raw socket, and a probe, with nothing between."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any

PROBE_S = 0.001
PROBE_LIMIT_S = 30.0


class EngineSocket:
    """A keep-alive connection to the Docker Engine that sends requests and reads JSON.

    Args:
        path: Of the engine's Unix socket.
    """

    def __init__(self, path: str) -> None:
        self._connection = _UnixConnection(path)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
        """One call; raises RuntimeError with the engine's words when it refuses."""
        payload = json.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, path, payload, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text) if text.strip() else None

    def close(self) -> None:
        self._connection.close()

    def create(self, name: str, body: dict[str, Any]) -> None:
        self.call("POST", f"/containers/create?name={name}", body)

    def start_and_probe(self, name: str, network: str, port: int, path: str) -> float:
        """Start a created container and ask it every millisecond; seconds to the first 200."""
        began_s = time.perf_counter()
        self.start_and_ask(name, network, port, path)
        return time.perf_counter() - began_s

    def start_and_ask(self, name: str, network: str, port: int, path: str) -> dict[str, str]:
        """The same; returns the header fields of the first 200, by their names in lower case."""
        began_s = time.perf_counter()
        self.call("POST", f"/containers/{name}/start")
        address = self.call("GET", f"/containers/{name}/json")["NetworkSettings"]["Networks"][network][
            "IPAddress"
        ]
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        while time.perf_counter() - began_s < PROBE_LIMIT_S:
            if head := answers(address, port, request):
                lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
                return {name.decode().lower(): value.strip().decode() for name, _, value in lines}
            time.sleep(PROBE_S)
        raise RuntimeError(f"{name} did not answer within {PROBE_LIMIT_S} s")

    def remove(self, name: str) -> None:
        self.call("DELETE", f"/containers/{name}?force=true&v=true")


def answers(address: str, port: int, request: bytes) -> bytes:
    """The head of a 200; empty for anything else."""
    with socket.socket() as connection:
        connection.settimeout(1.0)
        try:
            connection.connect((address, port))
            connection.sendall(request)
            head = connection.recv(4096)
        except OSError:
            return b""
        return head if head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) else b""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)
