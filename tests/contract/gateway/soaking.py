"""Thousands of connections that come, rest, leave at any moment, and meet dying workers: does anything grow?

The time is split into phases. At the end of each, with every client gone, the open descriptors, the tasks,
the memory and the requests that are still counted are read. The first third of the readings is the warm-up;
after it descriptors and tasks must stay where they are, and memory must not grow by more than a tenth.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gpud.core.ids import EndpointName
from tests.contract.gateway.rig import Rig, Seen, read_body_of

if TYPE_CHECKING:
    from tests.contract.gateway.rig import Answer, ScriptedWorker

CLIENTS = 2000
WORKERS = 4
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")


@dataclass(kw_only=True)
class Soak:
    """One soak, and what was read.

    Args:
        phases: How many.
        phase_s: Length of one.
        rest_s: Longest rest of a client between two visits, with its connection open or not.
        seed: Of everything that happens by chance.
    """

    phases: int
    phase_s: float
    rest_s: float
    seed: int = 1
    readings: dict[str, list[float]] = field(default_factory=dict)
    requests: int = 0
    left_counted: int = 0

    async def run(self) -> None:
        """Soak a gateway of its own."""
        chance = random.Random(self.seed)
        rig = await Rig().start()
        workers = [await rig.worker(i, answer=_answer(chance)) for i in range(WORKERS)]
        self.readings = {"descriptors": [], "tasks": [], "rss_mib": []}
        for _ in range(self.phases):
            await self._phase(rig, workers, chance)
        load = rig.dispatcher.take_load(EndpointName("llm"))
        self.left_counted = load.waiting + load.in_flight + len(rig.dispatcher._book.by_worker)
        await rig.stop()

    def faults(self) -> list[str]:
        """Name what grew."""
        faults = ["requests are still counted"] if self.left_counted else []
        for name, values in self.readings.items():
            third = len(values) // 3
            middle = statistics.median(values[third : 2 * third])
            last = statistics.median(values[2 * third :])
            room = middle * 0.1 if name == "rss_mib" else 8
            if last > middle + room:
                faults.append(f"{name} grew from {middle:.1f} to {last:.1f}: {values}")
        return faults

    async def _phase(self, rig: Rig, workers: list[ScriptedWorker], chance: random.Random) -> None:
        rig.publish(*workers, concurrency=CLIENTS, max_queue=CLIENTS)
        until_s = asyncio.get_running_loop().time() + self.phase_s
        clients = [self._client(rig.port, random.Random(chance.random()), until_s) for _ in range(CLIENTS)]
        outages = asyncio.create_task(_outages(rig, workers, chance))
        self.requests += sum(await asyncio.gather(*clients))
        outages.cancel()
        rig.publish(*workers, concurrency=CLIENTS, max_queue=CLIENTS)
        await rig.until(lambda: rig.waiting() + rig.in_flight() == 0)
        assert rig.gateway is not None
        rig.gateway._plane.pools.close()
        rig.watcher.told.clear()  # what the rig itself remembers is no leak
        for worker in workers:
            worker.seen.clear()
        with contextlib.suppress(TimeoutError):  # what is left after that shows in the readings
            await rig.until(lambda: not any(worker.open_connections for worker in workers))
            await rig.until(lambda: rig.gateway is not None and rig.gateway.connections == 0)
        gc.collect()
        self.readings["descriptors"].append(_descriptors())
        self.readings["tasks"].append(len(asyncio.all_tasks()))
        self.readings["rss_mib"].append(_rss_mib())

    async def _client(self, port: int, chance: random.Random, until_s: float) -> int:
        """One client after the other on one seat, each leaving when it likes; the requests it made."""
        made = 0
        loop = asyncio.get_running_loop()
        await asyncio.sleep(chance.random() * min(self.rest_s, self.phase_s / 2))
        while loop.time() < until_s:
            with contextlib.suppress(ConnectionError, OSError, asyncio.IncompleteReadError, TimeoutError):
                made += await self._visit(port, chance, until_s)
            await self._rest(chance, until_s)
        return made

    async def _rest(self, chance: random.Random, until_s: float) -> None:
        left_s = until_s - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(left_s, chance.random() * self.rest_s)))

    async def _visit(self, port: int, chance: random.Random, until_s: float) -> int:
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
            if chance.random() < 0.7:  # most keep their connection open and idle for a while
                await self._rest(chance, until_s)
        finally:
            writer.transport.abort()
        return made


def _answer(chance: random.Random) -> Answer:
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


async def _read_chunks(reader: asyncio.StreamReader) -> None:
    await read_body_of(Seen("", "", [("Transfer-Encoding", "chunked")]), reader)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
