"""A client that leaves takes its request with it, in every phase, without any timer running out.

Timers are kept out of it: the loop's clock is real, but whatever would end these requests by itself (hold,
request, connect and idle timeouts, the sweep's limits) is minutes away.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gpud.core.ids import WorkerId
from gpud.core.routing import RouteWorker
from gpud.gateway import pool
from gpud.gateway import upload as upload_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.gateway.rig import RawClient, Rig, ScriptedWorker, Seen

_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def patient(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT_S", 600.0)
    yield rig
    assert rig.waiting() + rig.in_flight() == 0
    assert rig.dispatcher.total_in_flight() == 0


_PATIENCE: dict[str, Any] = {"hold_timeout_s": 600.0, "request_timeout_s": 600.0}


async def _until_cancelled(
    _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, _out: asyncio.StreamWriter
) -> None:
    await reader.read()


async def _ask(rig: Rig, *, body: int = 0, sent: int = 0) -> RawClient:
    client = await rig.client()
    client.send("POST", "/e/llm/", headers=(f"Content-Length: {body}",))
    client.writer.write(b"x" * sent)
    return client


async def test_while_it_waits_for_a_place_among_full_workers(patient: Rig) -> None:
    worker = await patient.worker(answer=_until_cancelled)
    patient.publish(worker, concurrency=1, **_PATIENCE)
    running = await _ask(patient)
    await worker.until(lambda: len(worker.seen) == 1)
    queued = await _ask(patient)
    await patient.until(lambda: patient.waiting() == 1)

    queued.leave()

    await patient.until(lambda: patient.waiting() == 0)
    running.leave()
    await worker.until(lambda: worker.gone == 1)
    assert len(worker.seen) == 1  # the one that left was never dispatched
    await patient.until(lambda: patient.in_flight() == 0)


@pytest.mark.parametrize("upload", [0, 1000, 300_000])
async def test_while_a_worker_starts(patient: Rig, upload: int) -> None:
    """With the largest upload the gateway has stopped reading."""
    patient.publish(**_PATIENCE)
    client = await _ask(patient, body=10_000_000 if upload else 0, sent=upload)
    await patient.until(lambda: patient.waiting() == 1)
    (connection,) = patient.gateway._plane.clients  # type: ignore[union-attr]
    await patient.until(lambda: (upload > upload_limits.WAITING_BYTES_MAX) == (connection.stops > 0))

    client.leave()

    await patient.until(lambda: patient.waiting() == 0)


async def test_while_it_connects(patient: Rig) -> None:
    with socket.socket() as deaf:  # its backlog is full: the next connection is neither taken nor refused
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        filling = [await _connect_nowait(deaf) for _ in range(3)]
        worker = RouteWorker(
            worker_id=WorkerId("wk_0000000000000001"), address="127.0.0.1", port=deaf.getsockname()[1]
        )
        patient.publish(worker, **_PATIENCE)
        client = await _ask(patient)
        await patient.until(lambda: patient.in_flight() == 1)

        client.leave()

        await patient.until(lambda: patient.in_flight() == 0)
        for each in filling:
            each.close()


async def _connect_nowait(listening: socket.socket) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(0)
    connection.connect_ex(listening.getsockname())
    return connection


async def test_while_the_worker_thinks(patient: Rig) -> None:
    worker = await patient.worker(answer=_until_cancelled)
    patient.publish(worker, **_PATIENCE)
    client = await _ask(patient)
    await worker.until(lambda: len(worker.seen) == 1)

    client.leave()

    await worker.until(lambda: worker.gone == 1)
    await patient.until(lambda: patient.in_flight() == 0)


async def test_while_the_worker_takes_no_more_of_the_upload(patient: Rig) -> None:
    stopped = asyncio.Event()

    async def take_nothing(
        _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stopped.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        while await reader.read(1 << 20):
            pass

    worker = await patient.worker(answer=take_nothing, read_body=False)
    patient.publish(worker, **_PATIENCE)
    client = await _ask(patient, body=200_000_000)
    await worker.until(lambda: len(worker.seen) == 1)
    (connection,) = patient.gateway._plane.clients  # type: ignore[union-attr]
    upload, sent = connection.exchange.upload, 0  # type: ignore[union-attr]
    while not connection.stops:  # no more than fits: a close behind a full buffer is seen by nobody
        client.writer.write(b"x" * 50_000)
        sent += 50_000
        expected = sent
        await patient.until(lambda: connection.stops > 0 or upload.total >= expected)  # noqa: B023 - awaited here

    client.leave()

    await patient.until(lambda: patient.in_flight() == 0)
    stopped.set()
    await worker.until(lambda: worker.gone == 1)


async def test_while_the_answer_streams(patient: Rig) -> None:
    async def stream(
        _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(_CHUNKS + b"3\r\none\r\n")
        await reader.read()

    worker = await patient.worker(answer=stream)
    patient.publish(worker, **_PATIENCE)
    client = await _ask(patient)
    await client.reader.readuntil(b"one\r\n")

    client.leave()

    await worker.until(lambda: worker.gone == 1)
    await patient.until(lambda: patient.in_flight() == 0)


async def test_while_it_takes_no_more_of_the_answer(patient: Rig) -> None:
    async def pour(
        _worker: ScriptedWorker, _seen: Seen, _in: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(_CHUNKS)
        while not writer.is_closing():
            writer.write(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
            await writer.drain()

    worker = await patient.worker(answer=pour)
    patient.publish(worker, **_PATIENCE)
    client = await _ask(patient)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = patient.gateway._plane.clients  # type: ignore[union-attr]
    await patient.until(lambda: connection.writing_paused)

    client.leave()

    await worker.until(lambda: worker.gone == 1)
    await patient.until(lambda: patient.in_flight() == 0)


async def test_while_both_speak_through_a_tunnel(patient: Rig) -> None:
    async def switch(
        _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        await reader.read()

    worker = await patient.worker(answer=switch)
    patient.publish(worker, **_PATIENCE)
    client = await patient.client()
    client.send("GET", "/e/llm/", headers=("Connection: Upgrade", "Upgrade: websocket"))
    await client.reader.readuntil(b"hello")

    client.writer.close()

    await worker.until(lambda: worker.gone == 1)
    await patient.until(lambda: patient.in_flight() == 0)


async def test_an_answer_to_a_client_that_reset_its_paused_connection_ends_quietly(patient: Rig) -> None:
    """What the client sent fills every buffer, so its leaving shows only when it is written to."""
    patient.publish(**_PATIENCE)
    client = await _ask(patient, body=100_000_000, sent=20_000_000)
    await patient.until(lambda: patient.waiting() == 1)
    (connection,) = patient.gateway._plane.clients  # type: ignore[union-attr]
    await patient.until(lambda: connection.stops > 0)
    client.leave()

    patient.dispatcher.stop()

    await patient.until(lambda: not patient.gateway._plane.clients)  # type: ignore[union-attr]


async def test_the_kernel_asks_silent_clients_whether_they_are_there(patient: Rig) -> None:
    await patient.client()
    await patient.until(lambda: len(patient.gateway._plane.clients) == 1)  # type: ignore[union-attr]
    (connection,) = patient.gateway._plane.clients  # type: ignore[union-attr]
    accepted = connection.transport.get_extra_info("socket")
    with socket.fromfd(accepted.fileno(), socket.AF_INET, socket.SOCK_STREAM) as peer:
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        asks_after_s = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        every_s = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        times = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
    assert asks_after_s + every_s * times <= 120
