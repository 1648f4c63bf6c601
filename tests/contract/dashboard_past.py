"""What happened on the box that the dashboard is tried on: starts, usage, jobs, events, output."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.adapters.log_files import LogFile, folder_for
from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.job import Delivered, Ending, Retention
from gpud.core.job_request import JobPolicy, accepted, job_id
from gpud.core.log_lines import record, stamp_of
from gpud.core.metering import Phase, Segment
from gpud.core.records import (
    ColdStartSaved,
    EndpointSaved,
    EventRecorded,
    SegmentClosed,
    SegmentOpened,
    WorkerInserted,
)
from gpud.core.revision import RevisionRecord, RevisionState
from gpud.core.stats_history import StatsHistory, UseSample
from gpud.core.wanted import Wanted
from gpud.core.worker import Worker, WorkerState
from gpud.ports.jobs import Payload
from tests.contract.dashboard_world import GIB, HOSTILE

if TYPE_CHECKING:
    from pathlib import Path

    from gpud.core.endpoint import Endpoint
    from gpud.core.job import Job
    from tests.contract.api_site import ApiSite

HOUR_MS = 3_600_000
_MS_NS = 1_000_000
CHAT_WORKER = "wk_" + "a" * 16
LINES = 600
"""That the worker of chat wrote."""


async def remember(site: ApiSite, log_root: Path, history: StatsHistory, odd: str = HOSTILE) -> None:
    """Put everything in, with a text where others' words stand; the endpoints are there already."""
    stored = {name: await _stored(site, name) for name in ("chat", "whisper")}
    await _starts(site, stored["chat"])
    await _usage(site, stored)
    await _events(site, odd)
    await _jobs(site, odd)
    _output(site, log_root, odd)
    _stats(site, history)
    chat = site.control.deployed[EndpointName("chat")]
    site.control.revision_records += [
        RevisionRecord(
            endpoint=replace(chat, revision=chat.revision if number == 2 else type(chat.revision)("0ld" * 8)),
            number=number,
            state=RevisionState.CURRENT if number == 2 else RevisionState.LAST_GOOD,
            detail="",
            created_at_ms=site.clock.at_ms() - HOUR_MS * (3 - number),
            changed_at_ms=site.clock.at_ms() - HOUR_MS * (3 - number),
            ready_at_ms=site.clock.at_ms() - HOUR_MS * (3 - number),
        )
        for number in (2, 1)
    ]


async def _stored(site: ApiSite, name: str) -> Endpoint:
    """Rows of the past name an endpoint's row, which the fake fleet does not write."""
    await site.store.fleet.record([EndpointSaved(endpoint=site.control.deployed[EndpointName(name)])])
    return site.control.deployed[EndpointName(name)]


async def _starts(site: ApiSite, chat: Endpoint) -> None:
    now_ms = site.clock.at_ms()
    for number in range(8):
        slow = number == 7
        phases_ms = {
            StartPhase.WAIT: 900,
            StartPhase.EVICT: 2400 if slow else 0,
            StartPhase.PULL: 61_000 if slow else 0,
            StartPhase.RESERVE: 40,
            StartPhase.CREATE: 180,
            StartPhase.ENGINE_START: 420,
            StartPhase.LISTEN: 21_000 + 500 * number,
            StartPhase.READY: 1300,
            StartPhase.FIRST_BYTE: 240,
        }
        start = ColdStart(
            worker_id=WorkerId(f"wk_{number:016d}"),
            endpoint=chat.name,
            revision=chat.revision,
            at_ms=now_ms - (8 - number) * HOUR_MS,
            phases_ns={phase: ms * _MS_NS for phase, ms in phases_ms.items() if ms},
            wanted=Wanted(why="min_workers")
            if number % 3 == 0
            else Wanted(why="queue_delay", waiting=number),
        )
        await site.store.fleet.record([ColdStartSaved(start=start)])


async def _usage(site: ApiSite, stored: dict[str, Endpoint]) -> None:
    """Some of every hour of the last day and a half."""
    now_ms = site.clock.at_ms()
    for hour in range(36):
        name = "chat" if hour % 3 else "whisper"
        endpoint = stored[name]
        worker = Worker(
            id=WorkerId(f"wk_u{hour:015d}"),
            endpoint=endpoint.name,
            revision=endpoint.revision,
            state=WorkerState.PENDING,
            generation=0,
            since_s=0.0,
            created_at_ms=now_ms - (hour + 1) * HOUR_MS,
            port=8000,
        )
        opened = Segment(
            worker_id=worker.id,
            seq=0,
            phase=Phase.ACTIVE,
            endpoint=endpoint.name,
            revision=endpoint.revision,
            gpu_uuids=(GpuUuid(f"GPU-{hour % 2}"),),
            boot_id=site.clock.boot_id,
            start_boot_ns=0,
            start_wall_ms=now_ms - (hour + 1) * HOUR_MS,
        )
        closed = replace(opened, end_boot_ns=(20 + hour % 7 * 6) * 60_000 * _MS_NS, close_reason="exited")
        await site.store.fleet.record(
            [WorkerInserted(worker=worker), SegmentOpened(segment=opened), SegmentClosed(segment=closed)]
        )


async def _events(site: ApiSite, odd: str) -> None:
    now_ms = site.clock.at_ms()
    kinds = ("endpoint.deployed", "worker.ready", "worker.gone", "gpu.cordoned")
    events = [
        EventRecorded(
            kind=kinds[number % 4],
            at_ms=now_ms - (130 - number) * 60_000,
            endpoint="chat",
            worker_id=CHAT_WORKER,
            facts={"number": number, "detail": odd if number == 129 else "as it should be"},
        )
        for number in range(130)
    ]
    await site.store.fleet.record(events)


async def add_job(site: ApiSite, number: int, *, max_attempts: int = 1) -> Job:
    """A job that waits."""
    now_ms = site.jobs.queue.now_ms()
    content = b'{"input":{"prompt":"a fox"}}'
    job = accepted(
        job_id(now_ms, f"job_{number:016d}", sync=False),
        endpoint=EndpointName("chat"),
        owner="local",
        policy=JobPolicy(max_attempts=max_attempts),
        now_ms=now_ms,
        input_bytes=len(content),
    )
    written, _ = await site.store.jobs.accept(job, Payload(content=content), None)
    return written


async def fail_job(site: ApiSite, job: Job, odd: str = HOSTILE) -> None:
    """Hand it to a worker that dies of it."""
    now_ms = site.jobs.queue.now_ms()
    claim = await site.store.jobs.claim(
        job.seq, now_ms=now_ms, worker_id=CHAT_WORKER, instance="run-1", lease_until_ms=now_ms + 60_000
    )
    assert claim is not None
    said = Delivered(ending=Ending.WORKER_DIED, error=f"killed: {odd}", exit_code=137)
    await site.store.jobs.settle(
        claim.job, said, now_ms=now_ms + 4200, fraction=0.5, kept=Retention(), log_tail="CUDA out of memory"
    )


async def _jobs(site: ApiSite, odd: str) -> None:
    for number in range(3):
        await add_job(site, number)
    await fail_job(site, await add_job(site, 3), odd)


def _log_file(log_root: Path) -> LogFile:
    return LogFile(
        folder_for(log_root, "chat", CHAT_WORKER, 1), segment_bytes=1 << 20, rotated=lambda _: None
    )


def _output(site: ApiSite, log_root: Path, odd: str) -> None:
    begin_ns = site.clock.wall_ns() - LINES * 1_000_000_000
    file = _log_file(log_root)
    for number in range(LINES):
        stream = b"stderr" if number % 10 == 9 else b"stdout"
        text = b"10.0.0.%d - \x1b[32mPOST /v1/chat/completions\x1b[0m 200 line %d" % (number % 250, number)
        if number == LINES - 5:
            text = b"\x1b]0;title\x07" + odd.encode() + b"\x1b[2J\x9b31m \xe2\x80\xae\x08\x08 end"
        file.append(record(stamp_of(begin_ns + number * 1_000_000_000), stream, text))
    file.close(over=False)


def write_line(site: ApiSite, log_root: Path, text: bytes) -> None:
    """One more, now."""
    file = _log_file(log_root)
    file.append(record(stamp_of(site.clock.wall_ns()), b"stdout", text))
    file.close(over=False)


def _stats(site: ApiSite, history: StatsHistory) -> None:
    now_ms = site.clock.at_ms()
    for step in range(180):
        wave = abs(90 - step % 180) / 90
        history.add(
            CHAT_WORKER,
            UseSample(
                at_ms=now_ms - (180 - step) * 10_000,
                step_s=10.0,
                cpu_cores=0.4 + 2.5 * wave,
                memory_bytes=(6 + 2 * wave) * GIB,
                memory_bytes_max=8.5 * GIB,
                gpu_memory_mib=61_000.0,
                gpu_percent=95 * wave,
            ),
        )
