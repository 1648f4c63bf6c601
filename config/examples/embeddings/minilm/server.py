"""How does a request reach the model: a threaded HTTP/1.1 server that listens before it loads.

The socket listens from the first milliseconds, but nothing is accepted until the model has computed
once. A health probe sent during the load waits in the kernel's queue and is answered the moment the
worker is ready, instead of being refused and sent again later.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PORT = 8000
CONNECTIONS_MAX = 128
"""More wait in the kernel's queue; one thread serves one connection."""

STOP_GRACE_S = 5.0
"""How long running requests may still take after SIGTERM."""


class Boot:
    """When did which part of the start end, in milliseconds since the process began."""

    def __init__(self) -> None:
        self._began_s = _process_began_s()
        self._last_s = self._began_s
        self.phases: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """Note that a phase has just ended."""
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.phases[phase] = round((now_s - self._last_s) * 1000, 1)
        self.phases["total"] = round((now_s - self._began_s) * 1000, 1)
        self._last_s = now_s


class Server:
    """Accepts connections, a thread each, and ends in order on SIGTERM.

    Args:
        listener: A listening socket.
        wake: Becomes readable when a signal came.
    """

    def __init__(self, listener: socket.socket, wake: socket.socket) -> None:
        self._listener = listener
        self._wake = wake
        self._room = threading.Semaphore(CONNECTIONS_MAX)
        self._busy = threading.Condition()
        self._requests_running = 0
        self.stopping = False

    def run(self, serve: Callable[[socket.socket], None]) -> None:
        """Have each connection served in a thread until a signal comes, then let running requests end."""

        def handle(connection: socket.socket) -> None:
            try:
                with connection:
                    serve(connection)
            finally:
                self._room.release()

        while True:
            readable, _, _ = select.select([self._listener, self._wake], [], [])
            if self._wake in readable:
                break
            if not self._room.acquire(timeout=0.05):
                continue
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the peer has gone again
                self._room.release()
                continue
            threading.Thread(target=handle, args=(connection,), daemon=True).start()
        self._stop()

    def __enter__(self) -> None:
        """Count a request in."""
        with self._busy:
            self._requests_running += 1

    def __exit__(self, *_: object) -> None:
        """Count a request out."""
        with self._busy:
            self._requests_running -= 1
            self._busy.notify_all()

    def _stop(self) -> None:
        self.stopping = True
        self._listener.close()
        with self._busy:
            self._busy.wait_for(lambda: self._requests_running == 0, timeout=STOP_GRACE_S)
        log("server.stopped", requests_cut=self._requests_running)


def log(event: str, **fields: object) -> None:
    """Write one event as a line of JSON."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Listen, load, compute once, serve."""
    boot = Boot()
    boot.mark("interpreter")
    wake, waker = socket.socketpair()
    waker.setblocking(False)  # noqa: FBT003 - the standard library's signature
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the model is loaded a signal ends the process at once: there is nothing to finish.
        signal.signal(number, lambda *_: os._exit(0))
    port = int(os.environ.get("PORT", PORT))
    listener = socket.create_server(("", port), backlog=CONNECTIONS_MAX)
    listener.setblocking(False)  # noqa: FBT003 - the same
    boot.mark("listen")

    from minilm.service import Service  # noqa: PLC0415 - the port must be open before anything is imported

    service = Service(Path(os.environ.get("MODEL_DIR", "/app/model")), boot)
    server = Server(listener, wake)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # from here on the wake socket tells the server
    from minilm.connection import serve  # noqa: PLC0415 - the same

    boot.mark("http")
    log("server.ready", port=listener.getsockname()[1], boot_ms=boot.phases)
    server.run(lambda connection: serve(connection, service, server))
    sys.stdout.flush()
    os._exit(0)  # idle connections' threads need no farewell


def _process_began_s() -> float:
    """Return when the kernel started this process, in seconds of boot time, to its 10 ms tick."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
