"""How many durable writes a second the store makes, and how long one waits.

Three arms on the same aiosqlite connection and database, in turn, in every round: gpud's group
committer; one transaction for each write as aiosqlite users write it (a hop to the connection's thread
for each statement); and one transaction for each write in a single hop, which tells how much is due to
the hops and how much to sharing a commit. A write is one event row, acknowledged after COMMIT with
synchronous=FULL. Every turn begins at the start of the write-ahead log; gpud runs its own checkpoints, the
other arms have SQLite's automatic ones at the same 4 MiB. Below them the disk itself: writing one page and
making it durable.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sqlite3
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop
from bench_lib.report import Report, add_arguments

from gpud.adapters.sqlite.batches import commit
from gpud.adapters.sqlite.checkpoints import PASSIVE_AT_BYTES, Checkpointer
from gpud.adapters.sqlite.committer import GroupCommitter
from gpud.adapters.sqlite.connection import open_writer
from gpud.adapters.sqlite.fleet import SqliteFleetStore, record_changes
from gpud.adapters.sqlite.hops import on_thread, open_connection
from gpud.adapters.sqlite.rows import event_params
from gpud.adapters.sqlite.statements import SQL
from gpud.core.endpoint import Endpoint, EndpointSpec, PinnedImage
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.metering import Phase, Segment
from gpud.core.records import EndpointSaved, EventRecorded, SegmentClosed, SegmentOpened, WorkerInserted
from gpud.core.revision import revision_of
from gpud.core.worker import Worker, WorkerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiosqlite

    Write = Callable[[], Awaitable[object]]

ROOT = Path(__file__).parents[2]
WRITERS = (1, 8, 64, 256)
PAGE_BYTES = 4096
EVENT = EventRecorded(
    kind="worker.started",
    at_ms=1_763_730_000_000,
    endpoint="llm",
    worker_id="wk_aaaaaaaaaaaaaaaa",
    facts={"container": "gpud-wk_aaaaaaaaaaaaaaaa", "took_ms": 412},
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench store", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rounds, round_s = (3, 0.4) if options.quick else (5, 1.5)
    report = Report("store", ["aiosqlite", "uvloop"])
    report.versions["sqlite"] = sqlite3.sqlite_version
    # Beside the repository, for /tmp may be in memory.
    (ROOT / "var").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-store-", dir=ROOT / "var") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,  # as the daemon does
    ):
        runner.run(_measure(report, Path(folder), rounds, round_s))
    report.finish(options)
    return 0


async def _measure(report: Report, folder: Path, rounds: int, round_s: float) -> None:
    path = folder / "gpud.db"
    connection = await open_connection(partial(open_writer, path, install_id="benchmark", at_ms=0))
    checkpointer = Checkpointer(path.with_name("gpud.db-wal"))
    committer = GroupCommitter(
        on_thread(connection), now_s=time.monotonic, data_dir=folder, checkpointer=checkpointer
    )
    try:
        fleet = SqliteFleetStore(committer)
        await _measure_writes(report, connection, fleet, rounds, round_s)
        await _begin_turn(connection, "gpud")
        await _measure_flips(report, fleet, rounds, round_s)
        pages = [_page_ms(folder / "page") for _ in range(rounds)]
        report.add("durable_page_ms", "limit: pwrite and fdatasync of 4 KiB", "ms", pages)
    finally:
        await committer.close()
        await connection.close()
        checkpointer.close()


def _arms(connection: aiosqlite.Connection, fleet: SqliteFleetStore) -> dict[str, Write]:
    execute, turn = on_thread(connection), asyncio.Lock()
    params = event_params(EVENT)
    one_operation = partial(commit, [partial(record_changes, (EVENT,))])

    async def one_transaction_each() -> None:
        async with turn:  # coroutines on one connection would otherwise share transactions
            await connection.execute("BEGIN IMMEDIATE")
            await connection.execute(SQL["event_insert"], params)
            await connection.commit()

    return {
        "gpud": lambda: fleet.record([EVENT]),
        "one_transaction_each": one_transaction_each,
        "one_hop_each": lambda: execute(one_operation),
    }


async def _begin_turn(connection: aiosqlite.Connection, name: str) -> None:
    pages = 0 if name == "gpud" else PASSIVE_AT_BYTES // PAGE_BYTES
    await connection.execute_fetchall(f"PRAGMA wal_autocheckpoint = {pages}")
    await connection.execute_fetchall("PRAGMA wal_checkpoint(RESTART)")


async def _measure_writes(
    report: Report, connection: aiosqlite.Connection, fleet: SqliteFleetStore, rounds: int, round_s: float
) -> None:
    arms = _arms(connection, fleet)
    rates = {(writers, arm): list[float]() for writers in WRITERS for arm in arms}
    p99s_ms = {key: list[float]() for key in rates}
    for name, write in arms.items():
        await _begin_turn(connection, name)
        await _load([write] * 8, 0.3)  # warm: statement caches, the log's file
    for _ in range(rounds):
        for writers in WRITERS:
            for name, write in arms.items():
                await _begin_turn(connection, name)
                rate, p99_ms = await _load([write] * writers, round_s)
                rates[writers, name].append(rate)
                p99s_ms[writers, name].append(p99_ms)
    for (writers, name), samples in rates.items():
        report.add(f"durable_writes_per_s, {writers} writers", name, "1/s", samples)
    for (writers, name), samples in p99s_ms.items():
        report.add(f"write_p99_ms, {writers} writers", name, "ms", samples)
    for writers in WRITERS:
        for peer in list(arms)[1:]:
            pairs = zip(rates[writers, "gpud"], rates[writers, peer], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs]
            report.add(f"times_as_many, {writers} writers", f"gpud over {peer}", "x", ratios)


async def _measure_flips(report: Report, fleet: SqliteFleetStore, rounds: int, round_s: float) -> None:
    """What metering writes most: a segment closed and the next opened, in one transaction."""
    flippers = [await _flipper(fleet, number) for number in range(64)]
    found = [await _load(flippers, round_s) for _ in range(rounds)]
    report.add("durable_phase_flips_per_s, 64 workers", "gpud", "1/s", [rate for rate, _p99_ms in found])
    report.add("phase_flip_p99_ms, 64 workers", "gpud", "ms", [p99_ms for _rate, p99_ms in found])


async def _load(writes: list[Write], for_s: float) -> tuple[float, float]:
    """Have each writer write again and again; returns writes a second and the 99th percentile in ms."""
    took_s: list[float] = []
    began_s = time.perf_counter()

    async def write_on(write: Write) -> None:
        at_s = time.perf_counter()
        while at_s - began_s < for_s:
            await write()
            now_s = time.perf_counter()
            took_s.append(now_s - at_s)
            at_s = now_s

    await asyncio.gather(*map(write_on, writes))
    elapsed_s = time.perf_counter() - began_s
    return len(took_s) / elapsed_s, statistics.quantiles(took_s, n=100)[-1] * 1000


async def _flipper(fleet: SqliteFleetStore, number: int) -> Write:
    spec = EndpointSpec(name=EndpointName("llm"), image="team/model:1", port=8000)
    image = PinnedImage(reference=spec.image, pin="sha256:" + "ab" * 32)
    revision = revision_of(spec, image)
    endpoint = Endpoint(spec=spec, image=image, revision=revision, created_at_ms=0, updated_at_ms=0)
    worker = Worker(
        id=WorkerId(f"wk_{number:016d}"),
        endpoint=spec.name,
        revision=revision,
        state=WorkerState.READY,
        generation=5,
        since_s=0.0,
        created_at_ms=0,
        port=8000,
        address="10.0.0.2",
        gpu_uuids=(GpuUuid(f"GPU-{number}"),),
    )
    segment = Segment(
        worker_id=worker.id,
        seq=0,
        phase=Phase.IDLE,
        endpoint=worker.endpoint,
        revision=worker.revision,
        gpu_uuids=worker.gpu_uuids,
        boot_id="boot",
        start_boot_ns=0,
        start_wall_ms=0,
    )
    await fleet.record(
        [EndpointSaved(endpoint=endpoint), WorkerInserted(worker=worker), SegmentOpened(segment=segment)]
    )

    async def flip() -> None:
        nonlocal segment
        now_ns = time.monotonic_ns()
        ended = replace(segment, end_boot_ns=now_ns, close_reason="flip")
        phase = Phase.IDLE if segment.phase is Phase.ACTIVE else Phase.ACTIVE
        segment = replace(segment, seq=segment.seq + 1, phase=phase, start_boot_ns=now_ns)
        await fleet.record([SegmentClosed(segment=ended), SegmentOpened(segment=segment)])

    return flip


def _page_ms(path: Path) -> float:
    """Median of writing one page of an existing file and waiting until it is on the disk."""
    path.write_bytes(b"\0" * PAGE_BYTES * 64)
    took_s = []
    with path.open("r+b", buffering=0) as file:
        os.fsync(file.fileno())
        for n in range(300):
            began_s = time.perf_counter()
            os.pwrite(file.fileno(), bytes([n % 256]) * PAGE_BYTES, n % 64 * PAGE_BYTES)
            os.fdatasync(file.fileno())
            took_s.append(time.perf_counter() - began_s)
    return statistics.median(took_s) * 1000
