"""What a health probe tells apart, on real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

from gpud.adapters.http_probe import SocketProbe
from gpud.core.probing import ProbeOutcome, ProbeResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

TIMEOUT_S = 5.0
SHORT_S = 0.2
KIB = 1024


class Server:
    """Counts connections, keeps the requests, answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.closed = asyncio.Event()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await self.answer(reader, writer)
        except OSError:
            pass
        finally:
            self.closed.set()
            writer.close()


@asynccontextmanager
async def serving(answer: Answer, *, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, host, 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def saying(*parts: bytes) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def saying_then_waiting(*parts: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        await reader.read()

    return answer


def status_line(code: int, headers: bytes = b"Content-Length: 0\r\n") -> bytes:
    return b"HTTP/1.1 %d Whatever\r\n%s\r\n" % (code, headers)


@contextmanager
def listening(backlog: int = 1) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(backlog)
        yield sock


async def probed(
    port: int, *, address: str = "127.0.0.1", path: str = "/", timeout_s: float = TIMEOUT_S
) -> ProbeResult:
    return await SocketProbe().probe(address, port, path, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (200, ProbeOutcome.OK),
        (204, ProbeOutcome.OK),
        (301, ProbeOutcome.OK),
        (399, ProbeOutcome.OK),
        (400, ProbeOutcome.BAD_STATUS),
        (404, ProbeOutcome.BAD_STATUS),
        (503, ProbeOutcome.BAD_STATUS),
        (101, ProbeOutcome.BAD_STATUS),
    ],
)
async def test_statuses_from_200_to_399_are_well(code: int, outcome: ProbeOutcome) -> None:
    async with serving(saying(status_line(code))) as server:
        assert await probed(server.port) == ProbeResult(outcome=outcome, status=code)


async def test_it_is_one_get_that_asks_to_close() -> None:
    async with serving(saying(status_line(200))) as server:
        await probed(server.port, path="/health?deep=1")
    (head,) = server.heads
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "get /health?deep=1 http/1.1"
    assert f"host: 127.0.0.1:{server.port}" in lines
    assert "connection: close" in lines


async def test_a_body_is_posted_as_json() -> None:
    async with serving(saying(status_line(201))) as server:
        result = await SocketProbe().probe(
            "127.0.0.1", server.port, "/smoke", timeout_s=TIMEOUT_S, body='{"prompt": "\u00e9"}'
        )
    assert result == ProbeResult(outcome=ProbeOutcome.OK, status=201)
    (head,) = server.heads
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /smoke http/1.1"
    assert "content-type: application/json" in lines
    assert "content-length: 16" in lines


async def test_a_redirect_is_not_followed() -> None:
    async with serving(saying(status_line(200))) as target:
        location = b"Location: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n" % target.port
        async with serving(saying(status_line(302, location))) as server:
            assert (await probed(server.port)).status == 302
        assert target.heads == []


async def test_an_ipv6_worker_is_probed() -> None:
    async with serving(saying(status_line(200)), host="::1") as server:
        assert (await probed(server.port, address="::1")).outcome is ProbeOutcome.OK
        assert b"Host: [::1]:%d\r\n" % server.port in server.heads[0]


async def test_a_port_nobody_listens_on_refuses() -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
    assert (await probed(port)).outcome is ProbeOutcome.REFUSED


async def test_a_refusal_costs_less_than_a_fifth_of_a_millisecond() -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
    probe, took_s = SocketProbe(), []
    for _ in range(300):
        started_s = time.perf_counter()
        await probe.probe("127.0.0.1", port, "/", timeout_s=TIMEOUT_S)
        took_s.append(time.perf_counter() - started_s)
    # The quickest tenth: on a busy machine the others measure the machine.
    assert sorted(took_s)[30] < 0.0002


async def test_a_connection_broken_before_an_answer_is_a_reset() -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with serving(reset) as server:
        assert (await probed(server.port)).outcome is ProbeOutcome.RESET


async def test_a_connection_closed_without_an_answer_is_a_reset() -> None:
    async with serving(saying()) as server:
        assert (await probed(server.port)).outcome is ProbeOutcome.RESET


async def test_a_connection_closed_inside_the_head_is_a_reset() -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\nContent-")) as server:
        assert (await probed(server.port)).outcome is ProbeOutcome.RESET


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x00\xa5\x01", b"HTTP/1.1 abc\r\n\r\n"]
)
async def test_something_that_is_not_http_is_a_bad_status_of_zero(said: bytes) -> None:
    async with serving(saying(said)) as server:
        assert await probed(server.port) == ProbeResult(outcome=ProbeOutcome.BAD_STATUS)


async def test_a_worker_that_accepts_and_says_nothing_times_out() -> None:
    with listening() as sock:
        started_s = time.monotonic()
        result = await probed(sock.getsockname()[1], timeout_s=SHORT_S)
        assert result == ProbeResult(outcome=ProbeOutcome.TIMEOUT)
        assert SHORT_S * 0.9 <= time.monotonic() - started_s < TIMEOUT_S


async def test_a_worker_that_never_finishes_its_head_times_out() -> None:
    async with serving(saying_then_waiting(b"HTTP/1.1 200 OK\r\n")) as server:
        assert (await probed(server.port, timeout_s=SHORT_S)).outcome is ProbeOutcome.TIMEOUT


async def test_a_worker_that_never_finishes_its_body_times_out() -> None:
    async with serving(saying_then_waiting(status_line(200, b"Content-Length: 9\r\n"), b"ok")) as server:
        assert (await probed(server.port, timeout_s=SHORT_S)).outcome is ProbeOutcome.TIMEOUT


async def test_a_full_backlog_times_out() -> None:
    with listening(backlog=0) as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert (await probed(port, timeout_s=SHORT_S)).outcome is ProbeOutcome.TIMEOUT


@pytest.mark.parametrize(
    "answer",
    [
        saying_then_waiting(status_line(200, b"Content-Length: 2\r\n"), b"ok"),
        saying_then_waiting(status_line(200, b"Transfer-Encoding: chunked\r\n"), b"2\r\nok\r\n0\r\n\r\n"),
        saying_then_waiting(status_line(204, b"")),
        saying(b"HTTP/1.0 200 OK\r\n\r\nok"),
        saying(b"H", b"TTP/1.1 200", b" OK\r\n", b"Content-Length: 2\r\n\r", b"\nok"),
    ],
    ids=["length", "chunked", "no body", "until close", "in pieces"],
)
async def test_an_answer_ends_where_http_says_even_if_the_worker_keeps_the_connection(answer: Answer) -> None:
    async with serving(answer) as server:
        assert (await probed(server.port)).outcome is ProbeOutcome.OK
        await asyncio.wait_for(server.closed.wait(), TIMEOUT_S)


async def test_an_interim_answer_is_waited_through() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    async with serving(saying(early, status_line(503))) as server:
        assert await probed(server.port) == ProbeResult(outcome=ProbeOutcome.BAD_STATUS, status=503)


async def test_no_more_than_ten_kib_of_an_endless_body_is_waited_for() -> None:
    sent_bytes = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(status_line(200, b""))
        while True:
            writer.write(b"x" * KIB)
            sent_bytes += KIB
            await writer.drain()

    async with serving(endless) as server:
        assert (await probed(server.port)).outcome is ProbeOutcome.OK
        await asyncio.wait_for(server.closed.wait(), TIMEOUT_S)
    assert sent_bytes >= 10 * KIB


async def test_an_endless_head_is_given_up() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: %s\r\n" % (b"x" * KIB))
            await writer.drain()

    async with serving(endless) as server:
        assert (await probed(server.port)).outcome is ProbeOutcome.BAD_STATUS
        await asyncio.wait_for(server.closed.wait(), TIMEOUT_S)


async def test_no_file_descriptor_left_is_an_error_of_our_own() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(saying(status_line(200))) as server:
        # The lowest free descriptor becomes the limit, so that no other can be had.
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            result = await probed(server.port)
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                os.dup(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert result == ProbeResult(outcome=ProbeOutcome.LOCAL_ERROR)
        assert server.heads == []


@pytest.mark.parametrize(
    ("address", "port", "path"),
    [
        ("worker.internal", 80, "/"),
        ("", 80, "/"),
        ("127.0.0.1", 70_000, "/"),
        ("127.0.0.1", 80, "/\r\nX: y"),
    ],
)
async def test_what_cannot_be_asked_is_an_error_of_our_own(address: str, port: int, path: str) -> None:
    with listening() as sock:
        own_port = sock.getsockname()[1] if port == 80 else port
        result = await probed(own_port, address=address, path=path)
        assert result == ProbeResult(outcome=ProbeOutcome.LOCAL_ERROR)


async def test_a_cancelled_probe_is_cancelled_and_closes_its_connection() -> None:
    async with serving(saying_then_waiting()) as server:
        probing = asyncio.create_task(probed(server.port))
        async with asyncio.timeout(TIMEOUT_S):
            while not server.heads:  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.001)
            probing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probing
            await server.closed.wait()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_many_probes_leave_no_descriptor_open() -> None:
    async with serving(saying(status_line(200))) as server:
        await probed(server.port)
        before = open_descriptors()
        for _ in range(50):
            await probed(server.port)
        await probed(1, timeout_s=SHORT_S)
        # The server's own ends close a turn of the loop later.
        async with asyncio.timeout(TIMEOUT_S):
            while open_descriptors() > before:  # noqa: ASYNC110  the same
                await asyncio.sleep(0.001)


def test_every_outcome_is_the_same_on_the_loop_of_the_daemon() -> None:
    async def outcomes() -> list[ProbeOutcome]:
        async with (
            serving(saying(status_line(200))) as well,
            serving(saying(status_line(500))) as ill,
            serving(saying()) as closing,
            serving(saying_then_waiting()) as silent,
        ):
            ports = [well.port, ill.port, closing.port, silent.port]
            results = [await probed(port, timeout_s=SHORT_S) for port in ports]
        results.append(await probed(well.port, timeout_s=SHORT_S))
        return [result.outcome for result in results]

    assert uvloop.run(outcomes()) == [
        ProbeOutcome.OK,
        ProbeOutcome.BAD_STATUS,
        ProbeOutcome.RESET,
        ProbeOutcome.TIMEOUT,
        ProbeOutcome.REFUSED,
    ]
