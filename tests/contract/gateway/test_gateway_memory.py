"""What one connection may hold: the figures that `docs/howto/gateway.md` states."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import tracemalloc
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

import pytest

from gpud.core.ids import WorkerId
from gpud.core.routing import RouteWorker
from tests.contract.gateway.rig import DEADLINE_S, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.gateway.rig import Rig

pytestmark = pytest.mark.long

IDLE_BYTES_MAX = 4 * 1024
SLOW_READER_BYTES_MAX = 640 * 1024
UPLOAD_BYTES_MAX = 640 * 1024
REPEATABLE_UPLOAD_BYTES_MAX = UPLOAD_BYTES_MAX + 1024 * 1024
_KEY = f"Host: gpud.test\r\nAuthorization: Bearer {TOKEN}\r\n"
_QUIET_S = 0.5
_REPEATABLE_BYTES = 1_000_000
_BLOCK = memoryview(bytes(1 << 20))


class PlainWorker:
    """A worker in threads, on sockets alone, so that it allocates next to nothing itself."""

    def __init__(self, serve: Callable[[PlainWorker, socket.socket], None]) -> None:
        self._serve = serve
        self.blocked = threading.Semaphore(0)
        """Released for each connection that has not moved for a while."""
        self.over = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def route(self) -> RouteWorker:
        port = self._listening.getsockname()[1]
        return RouteWorker(worker_id=WorkerId("wk_0000000000000001"), address="127.0.0.1", port=port)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.over.set()
        for known in (self._listening, *self._connections):
            with suppress(OSError):
                known.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for known in (self._listening, *self._connections):
            known.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self.over.is_set():
                connection, _ = self._listening.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._guarded, args=(connection,)))
                self._threads[-1].start()

    def _guarded(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._serve(self, connection)


def _answer_each(_worker: PlainWorker, connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def _send_without_end(worker: PlainWorker, connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
    _send_until_blocked(connection)
    worker.blocked.release()
    worker.over.wait()


def _read_all(worker: PlainWorker, connection: socket.socket) -> None:
    into = bytearray(1 << 16)
    left = _REPEATABLE_BYTES
    while left > 0:
        left -= connection.recv_into(into)
    worker.blocked.release()
    worker.over.wait()


def _read_nothing(worker: PlainWorker, _connection: socket.socket) -> None:
    worker.over.wait()


def _send_until_blocked(connection: socket.socket, length: int = 1 << 40) -> None:
    connection.settimeout(_QUIET_S)
    with suppress(TimeoutError):
        while length:
            length -= connection.send(_BLOCK[:length])


async def test_an_idle_connection_holds_less_than_4_kib(rig: Rig) -> None:
    with PlainWorker(_answer_each) as worker, _traced() as traced:
        rig.publish(worker.route, concurrency=1000)
        with _clients(rig, 1) as first:
            await _ask_each(first)
        before = traced()
        with _clients(rig, 100) as clients:
            await _ask_each(clients)
            assert (traced() - before) / len(clients) < IDLE_BYTES_MAX


async def test_a_client_that_reads_nothing_of_a_fast_worker_holds_little(rig: Rig) -> None:
    with PlainWorker(_send_without_end) as worker, _traced() as traced, _clients(rig, 8) as clients:
        rig.publish(worker.route, concurrency=1000)
        for client in clients:
            client.sendall(f"GET /e/llm/ HTTP/1.1\r\n{_KEY}\r\n".encode())
        for _ in clients:
            assert await asyncio.to_thread(worker.blocked.acquire, timeout=DEADLINE_S)
        assert traced() / len(clients) < SLOW_READER_BYTES_MAX


async def test_a_body_that_could_be_sent_again_is_kept_until_the_answer_and_no_longer_one(rig: Rig) -> None:
    with PlainWorker(_read_all) as worker, _traced() as traced, _clients(rig, 4) as clients:
        rig.publish(worker.route, concurrency=1000)
        await asyncio.gather(*(asyncio.to_thread(_upload, client, _REPEATABLE_BYTES) for client in clients))
        for _ in clients:
            assert await asyncio.to_thread(worker.blocked.acquire, timeout=DEADLINE_S)
        assert _REPEATABLE_BYTES < traced() / len(clients) < REPEATABLE_UPLOAD_BYTES_MAX


@pytest.mark.parametrize("ready", [True, False])
async def test_an_upload_that_nobody_takes_holds_little(rig: Rig, ready: bool) -> None:
    with PlainWorker(_read_nothing) as worker, _traced() as traced, _clients(rig, 8) as clients:
        rig.publish(*([worker.route] if ready else []), concurrency=1000)
        await asyncio.gather(*(asyncio.to_thread(_upload, client, 1 << 30) for client in clients))
        assert traced() / len(clients) < UPLOAD_BYTES_MAX


def _upload(client: socket.socket, length: int) -> None:
    """Send a body until it is all sent or nothing more is taken."""
    client.sendall(f"POST /e/llm/ HTTP/1.1\r\n{_KEY}Content-Length: {length}\r\n\r\n".encode())
    _send_until_blocked(client, length)


async def _ask_each(clients: list[socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    for client in clients:
        client.settimeout(0)
        await loop.sock_sendall(client, f"GET /e/llm/ HTTP/1.1\r\n{_KEY}\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            assert (await loop.sock_recv(client, 65536)).endswith(b"ok")


@contextmanager
def _clients(rig: Rig, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", rig.port))) for _ in range(count)]


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """Say how many bytes have been allocated and kept since."""

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield traced
    finally:
        tracemalloc.stop()
