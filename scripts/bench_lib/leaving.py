"""How soon a request ends when its client leaves: in each phase, its place or slot, and its worker's side.

`slot` is the time from the client's close to the moment at which the gateway gives the place in the queue
or the slot of the worker back; `upstream` to the moment at which the worker's side sees its connection end.
Gateway, client and worker share one event loop, so both hold the time of its turns.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from typing import TYPE_CHECKING

import uvloop
from bench_lib.report import Report, add_arguments

from gpud.core.ids import WorkerId
from gpud.core.routing import RouteWorker
from tests.contract.gateway.rig import Rig

if TYPE_CHECKING:
    from tests.contract.gateway.rig import Answer, RawClient, ScriptedWorker, Seen

PHASES = ("queued", "starting", "connecting", "first_byte", "streaming", "paused", "tunnel")
_SWITCH = b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello"
_STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench leaving", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    report = Report("leaving", ["uvloop"])
    uvloop.run(_measure(report, 20 if options.quick else 200))
    report.finish(options)
    return 0


async def _measure(report: Report, samples: int) -> None:
    for phase in PHASES:
        slots, upstreams = [], []
        for _ in range(samples):
            slot_ms, upstream_ms = await _leave_once(phase)
            slots.append(slot_ms)
            if upstream_ms is not None:
                upstreams.append(upstream_ms)
        report.add(f"{phase} slot", "gpud", "ms", slots)
        if upstreams:
            report.add(f"{phase} upstream", "gpud", "ms", upstreams)


async def _leave_once(phase: str) -> tuple[float, float | None]:
    rig = await Rig().start()
    freed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    worker = await rig.worker(answer=_answer(phase, ended))
    client = await _bring_to(phase, rig, worker)
    _tell_when_freed(rig, freed)
    left_s = time.perf_counter()
    client.leave()
    async with asyncio.timeout(30):
        slot_ms = (await freed - left_s) * 1000
        seen = phase not in ("queued", "starting", "connecting")
        upstream_ms = (await ended - left_s) * 1000 if seen else None
    await rig.stop()
    return slot_ms, upstream_ms


async def _bring_to(phase: str, rig: Rig, worker: ScriptedWorker) -> RawClient:
    if phase == "starting":
        rig.publish()
    elif phase == "connecting":
        rig.publish(_deaf())
    else:
        rig.publish(worker, concurrency=1)
    if phase == "queued":
        running = await rig.client()
        running.send("GET", "/e/llm/")
        await worker.until(lambda: len(worker.seen) == 1)
    client = await rig.client()
    headers = ("Connection: Upgrade", "Upgrade: websocket") if phase == "tunnel" else ()
    client.send("GET", "/e/llm/", headers=headers)
    if phase in ("queued", "starting"):
        await rig.until(lambda: rig.waiting() == 1)
    elif phase == "connecting":
        await rig.until(lambda: rig.in_flight() == 1)
    elif phase == "first_byte":
        await worker.until(lambda: len(worker.seen) == 1)
    elif phase == "paused":
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await rig.until(lambda: any(each.writing_paused for each in rig.gateway._plane.clients))  # type: ignore[union-attr]  # noqa: SLF001
    else:
        await client.reader.readuntil(b"hello" if phase == "tunnel" else b"one\r\n")
    return client


def _answer(phase: str, ended: asyncio.Future[float]) -> Answer:
    async def answer(
        _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            if phase == "tunnel":
                writer.write(_SWITCH)
            elif phase == "streaming":
                writer.write(_STREAM)
            elif phase == "paused":
                writer.write(_STREAM)
                while not writer.is_closing():
                    writer.write(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
                    await writer.drain()
            await reader.read()
        finally:
            if not ended.done():
                ended.set_result(time.perf_counter())

    return answer


def _tell_when_freed(rig: Rig, freed: asyncio.Future[float]) -> None:
    """Note when the queue or a worker has a place more."""

    def noting(original):  # noqa: ANN001, ANN202 - two methods of the dispatcher
        def noted(*arguments, **named):  # noqa: ANN002, ANN003, ANN202 - whatever they take
            original(*arguments, **named)
            if not freed.done():
                freed.set_result(time.perf_counter())

        return noted

    rig.dispatcher.abandon = noting(rig.dispatcher.abandon)  # type: ignore[method-assign]
    rig.dispatcher.slot_released = noting(rig.dispatcher.slot_released)  # type: ignore[method-assign]


def _deaf() -> RouteWorker:
    """A worker that neither takes a connection nor refuses it: its backlog is full."""
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    _KEPT.append(deaf)
    for _ in range(3):
        filling = socket.socket()
        filling.settimeout(0)
        filling.connect_ex(deaf.getsockname())
        _KEPT.append(filling)
    return RouteWorker(worker_id=WorkerId("wk_deaf"), address="127.0.0.1", port=deaf.getsockname()[1])


_KEPT: list[socket.socket] = []
