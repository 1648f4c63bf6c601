"""Whether the gateway leaks: thousands of connections that come, leave at any moment, and meet dying workers.

A minute of `--minutes` is split into tenths; at the end of each, with every client gone, the open
descriptors, the tasks, the held and running requests and the memory are read. The first readings are the
warm-up; descriptors and tasks must then stay where they are, and memory must not grow by more than a tenth.
`--quick` takes one minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from bench_lib.report import Report, add_arguments

from gpud.core.ids import EndpointName
from tests.contract.gateway.rig import Rig, read_body_of

if TYPE_CHECKING:
    from tests.contract.gateway.rig import ScriptedWorker, Seen

CLIENTS = 2000
WORKERS = 4
PHASES_A_MINUTE = 10
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench soak", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    report = Report("soak", ["uvloop"])
    minutes = 1.0 if options.quick else options.minutes
    faults = uvloop.run(_soak(report, minutes, random.Random(options.seed)))  # noqa: S311 - a seed, not a secret
    report.finish(options)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


async def _soak(report: Report, minutes: float, chance: random.Random) -> list[str]:
    rig = await Rig().start()
    workers = [await rig.worker(i, answer=_answer(chance)) for i in range(WORKERS)]
    phases = max(4, round(minutes * PHASES_A_MINUTE))
    readings: dict[str, list[float]] = {"descriptors": [], "tasks": [], "rss_mib": [], "requests": []}
    served = 0
    for _ in range(phases):
        rig.publish(*workers, concurrency=CLIENTS, max_queue=CLIENTS)
        until_s = asyncio.get_running_loop().time() + 60 / PHASES_A_MINUTE
        clients = [_client(rig.port, random.Random(chance.random()), until_s) for _ in range(CLIENTS)]  # noqa: S311
        outages = asyncio.create_task(_outages(rig, workers, chance))
        served += sum(await asyncio.gather(*clients))
        outages.cancel()
        rig.publish(*workers, concurrency=CLIENTS, max_queue=CLIENTS)
        await rig.until(lambda: rig.waiting() + rig.in_flight() == 0)
        rig.gateway._plane.pools.close()  # type: ignore[union-attr]  # noqa: SLF001
        rig.watcher.told.clear()  # what the rig itself remembers is no leak
        for worker in workers:
            worker.seen.clear()
        with contextlib.suppress(TimeoutError):  # what is left after that shows in the readings
            await rig.until(lambda: not any(worker.open_connections for worker in workers))
            await rig.until(lambda: rig.gateway is not None and rig.gateway.connections == 0)
        gc.collect()
        readings["descriptors"].append(_descriptors())
        readings["tasks"].append(len(asyncio.all_tasks()))
        readings["rss_mib"].append(_rss_mib())
        readings["requests"].append(served)
    load = rig.dispatcher.take_load(EndpointName("llm"))
    await rig.stop()
    for name, values in readings.items():
        report.add(name, "gpud", name, values[len(values) // 3 :])
    return [*_grown(readings), *(["requests are still counted"] if load.waiting + load.in_flight else [])]


def _grown(readings: dict[str, list[float]]) -> list[str]:
    """Compare the last third of the readings with the middle one; the first is the warm-up."""
    faults = []
    for name, values in readings.items():
        third = len(values) // 3
        middle = statistics.median(values[third : 2 * third])
        last = statistics.median(values[2 * third :])
        room = middle * 0.1 if name == "rss_mib" else 8
        if name != "requests" and last > middle + room:
            faults.append(f"{name} grew from {middle:.1f} to {last:.1f}")
    return faults


def _answer(chance: random.Random):  # noqa: ANN202 - what the rig takes
    async def answer(
        _worker: ScriptedWorker, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        fate = chance.random()
        if fate < 0.05:
            writer.transport.abort()
            return
        if seen.header("Upgrade"):
            writer.write(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
            while fate > 0.5 and (data := await reader.read(1024)):
                writer.write(data)
            writer.transport.abort()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(chance.randrange(6)):
            if writer.is_closing():
                return
            writer.write(b"5\r\nhello\r\n")
            await asyncio.sleep(chance.random() * 0.02)
            if chance.random() < 0.03:
                writer.transport.abort()
                return
        if not writer.is_closing():
            writer.write(b"0\r\n\r\n")

    return answer


async def _outages(rig: Rig, workers: list[ScriptedWorker], chance: random.Random) -> None:
    """Take workers away and bring them back: held requests, refused connections, retries."""
    while True:
        await asyncio.sleep(chance.random() * 0.3)
        left = [worker for worker in workers if chance.random() < 0.6]
        rig.publish(*left, concurrency=CLIENTS, max_queue=CLIENTS)


async def _client(port: int, chance: random.Random, until_s: float) -> int:
    """One client after the other on one seat, each leaving when it likes; the requests it made."""
    made = 0
    loop = asyncio.get_running_loop()
    while loop.time() < until_s:
        with contextlib.suppress(ConnectionError, OSError, asyncio.IncompleteReadError, TimeoutError):
            made += await _visit(port, chance, until_s)
        await asyncio.sleep(chance.random() * 0.5)
    return made


async def _visit(port: int, chance: random.Random, until_s: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    made = 0
    try:
        for _ in range(chance.randrange(1, 5)):
            upgrade = "".join(line + "\r\n" for line in UPGRADE) if chance.random() < 0.2 else ""
            body = b"x" * chance.choice([0, 10, 5000])
            head = f"POST /e/llm/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer gpud_test_key\r\n{upgrade}"
            request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
            writer.write(request[: chance.randrange(len(request))] if chance.random() < 0.1 else request)
            made += 1
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.05)
                return made
            async with asyncio.timeout(max(0.05, min(2.0, until_s - asyncio.get_running_loop().time()))):
                head_bytes = await reader.readuntil(b"\r\n\r\n")
                if upgrade or b"chunked" not in head_bytes:
                    return made
                await _read_chunks(reader)
    finally:
        writer.transport.abort()
    return made


async def _read_chunks(reader: asyncio.StreamReader) -> None:
    from tests.contract.gateway.rig import Seen  # noqa: PLC0415 - a class the annotations above name too

    await read_body_of(Seen("", "", [("Transfer-Encoding", "chunked")]), reader)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
