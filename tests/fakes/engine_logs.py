"""An engine of which only containers' logs can be asked: json-file's files, and its API beside them."""

from __future__ import annotations

import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(slots=True, eq=False)
class LoggedContainer:
    """A container's log as an engine writes it.

    Attributes:
        entries: Moment, stream and text of every piece, for the API.
        ended: Nothing more comes.
    """

    path: Path
    entries: list[tuple[str, str, str]] = field(default_factory=list)
    ended: bool = False

    def write(self, stamp: str, stream: str, text: str) -> None:
        """Write a piece; a line's last ends with its line end."""
        self.entries.append((stamp, stream, text))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"log": text, "stream": stream, "time": stamp}, separators=(",", ":")) + "\n"
            )

    def rotate(self) -> None:
        """Rename the file and begin a new one; one older file is kept."""
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        self.path.touch()


class FakeEngineLogs:
    """Serves on a Unix socket, a thread for each connection.

    Args:
        folder: For the socket and the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.containers: dict[str, LoggedContainer] = {}
        self.changed = threading.Condition()
        self.path = folder / "engine.sock"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen()
        self._closed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def container(self, name: str) -> LoggedContainer:
        """Make a container that runs."""
        folder = self._folder / name
        folder.mkdir()
        path = folder / f"{name}-json.log"
        path.touch()
        self.containers[name] = LoggedContainer(path)
        return self.containers[name]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(4096)
                if not piece:
                    return
                head += piece
            parts = head.split()[1].decode().split("/")
            container = self.containers.get(parts[3])
            try:
                if container is None:
                    connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n{}")
                elif parts[4] == "json":
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + self._inspected(parts[3], container))
                else:
                    self._follow(connection, container)
            except OSError:
                return

    @staticmethod
    def _inspected(name: str, container: LoggedContainer) -> bytes:
        return json.dumps(
            {
                "Id": name,
                "State": {"Running": not container.ended},
                "HostConfig": {"LogConfig": {"Type": "json-file"}},
                "LogPath": str(container.path),
            }
        ).encode()

    def _follow(self, connection: socket.socket, container: LoggedContainer) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        sent = 0
        while not self._closed:
            ended = container.ended  # asked before the entries, so that none comes after the end
            for stamp, stream, text in container.entries[sent:]:
                payload = f"{stamp} {text}".encode()
                kind = 2 if stream == "stderr" else 1
                connection.sendall(struct.pack(">BxxxI", kind, len(payload)) + payload)
                sent += 1
            if ended:
                return
            with self.changed:
                self.changed.wait(0.05)
