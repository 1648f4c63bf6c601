"""What the store's tests are made of: a clock set by hand, stores of both kinds, worker lives."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.store import memory_database, open_inline_store, open_store
from gpud.core.endpoint import (
    Balance,
    Endpoint,
    EndpointSpec,
    GpuNeeds,
    HealthCheck,
    Limits,
    PinnedImage,
    PolicyName,
    ScalePolicy,
    Volume,
)
from gpud.core.gpu import WHOLE_PPM, GpuSlice
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.job_spec import JobNeeds, OnAdopt
from gpud.core.key_shares import with_shares
from gpud.core.metering import Phase, Segment
from gpud.core.records import (
    EndpointSaved,
    FleetChange,
    LeaseClosed,
    LeaseOpened,
    SegmentClosed,
    SegmentOpened,
    WorkerInserted,
    WorkerMoved,
)
from gpud.core.request_rules import RequestRules
from gpud.core.revision import revision_of
from gpud.core.worker import Worker, WorkerState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store

KINDS = ("file", "inline")
S = 1_000_000_000
MS = 1_000_000
GPU_A = GpuUuid("GPU-aaaaaaaa-0000-4000-8000-000000000001")
GPU_B = GpuUuid("GPU-bbbbbbbb-0000-4000-8000-000000000002")


@dataclass
class HandClock:
    """Stands where it is put; may be read from any thread."""

    boot_id: str = "boot-1"
    boot: int = 1000 * S
    wall: int = 1_763_730_000 * S

    def now_s(self) -> float:
        return self.boot / S

    def at_ms(self) -> int:
        return self.wall // MS

    def wall_ns(self) -> int:
        return self.wall

    def boot_ns(self) -> int:
        return self.boot

    def advance(self, ns: int) -> None:
        self.boot += ns
        self.wall += ns


@asynccontextmanager
async def opened(kind: str, tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    if kind == "file":
        store = await open_store(tmp_path / "data", clock)
        try:
            yield store
        finally:
            await store.close()
        return
    database = memory_database()
    try:
        store = await open_inline_store(database, clock)
        try:
            yield store
        finally:
            await store.close()
    finally:
        database.close()


def an_endpoint(name: str = "llm", **changes: object) -> Endpoint:
    spec = EndpointSpec(name=EndpointName(name), image="team/model:1", port=8000)
    spec = replace(spec, **changes)  # type: ignore[arg-type]
    image = PinnedImage(reference="team/model:1", pin="sha256:" + "ab" * 32, exposed_ports=(8000,))
    return Endpoint(
        spec=spec,
        image=image,
        revision=revision_of(spec, image),
        created_at_ms=1_763_730_000_123,
        updated_at_ms=1_763_730_000_456,
    )


def a_full_endpoint() -> Endpoint:
    """One with no field at its default."""
    return an_endpoint(
        "full-1",
        command=("--model", "Qwen/Qwen3-8B", "naïve \u2603"),
        aliases=("Qwen/Qwen3-8B", "q"),
        registry="ghcr",
        env=(("HF_HOME", "/models"), ("EMPTY", "")),
        public=True,
        gpus=GpuNeeds(count=2, least_memory_mib=40_000, model="H100"),
        scale=ScalePolicy(
            min_workers=1,
            max_workers=4,
            policy=PolicyName.FIXED,
            target=1.5,
            concurrency=3,
            idle_timeout_s=12.5,
            priority=-3,
            balance=Balance.LEAST_INFLIGHT,
        ),
        health=HealthCheck(
            path="/health",
            start_timeout_s=5.5,
            period_s=1.0,
            timeout_s=0.5,
            fail_threshold=2,
            not_ready_timeout_s=9.0,
        ),
        limits=Limits(
            request_timeout_s=1.0,
            max_queue=7,
            queue_timeout_s=8.0,
            drain_timeout_s=9.0,
            stop_grace_s=1.0,
            memory_mib=512,
            cpus=1.5,
            shm_mib=64,
            pids=100,
        ),
        jobs=JobNeeds(
            path="/jobs",
            cancel_path="/cancel",
            status_path="/outcome",
            execution_timeout_s=60.0,
            max_attempts=5,
            on_adopt=OnAdopt.WAIT,
        ),
        requests=RequestRules(denied_paths=("/admin/*",), quiet_methods=("GET",), progress=True),
        volumes=(
            Volume(source="models", target="/models"),
            Volume(source="/srv/x", target="/x", read_only=True),
        ),
    )


def a_worker(number: int = 1, endpoint: Endpoint | None = None, **changes: object) -> Worker:
    endpoint = endpoint or an_endpoint()
    worker = Worker(
        id=WorkerId(
            f"wk_{number:016d}".replace("0", "a").replace("1", "b").replace("8", "i").replace("9", "j")
        ),
        endpoint=endpoint.name,
        revision=endpoint.revision,
        state=WorkerState.PENDING,
        generation=0,
        since_s=1.25,
        created_at_ms=1_763_730_000_000 + number,
        port=8000,
    )
    return replace(worker, **changes)  # type: ignore[arg-type]


def moved(worker: Worker, state: WorkerState, **changes: object) -> tuple[Worker, WorkerMoved]:
    """The worker one state on, and the change that says so."""
    after = replace(worker, state=state, generation=worker.generation + 1, **changes)  # type: ignore[arg-type]
    change = WorkerMoved(worker=after, from_state=worker.state, from_generation=worker.generation)
    return after, change


class Life:
    """A worker whose transitions, leases and segments are written as the fleet writes them."""

    def __init__(self, store: Store, clock: HandClock, number: int, endpoint: Endpoint | None = None) -> None:
        self._store = store
        self._clock = clock
        self.endpoint = endpoint or an_endpoint()
        self.worker = a_worker(number, self.endpoint)
        self.segment: Segment | None = None
        self.had_ns: dict[str, int] = {}
        """What keys had of the open segment, as the gateway would tell."""
        self._seq = 0

    async def begin(self) -> Life:
        await self._store.fleet.record(
            [EndpointSaved(endpoint=self.endpoint), WorkerInserted(worker=self.worker)]
        )
        return self

    async def reserve(self, *gpus: GpuUuid, gpu_slice: GpuSlice | None = None) -> None:
        clock = self._clock
        leases: list[FleetChange] = [
            LeaseOpened(
                gpu_uuid=gpu,
                worker_id=self.worker.id,
                boot_id=clock.boot_id,
                at_boot_ns=clock.boot_ns(),
                gpu_slice=gpu_slice,
            )
            for gpu in gpus
        ]
        self.worker, move = moved(self.worker, WorkerState.RESERVED, gpu_uuids=gpus, gpu_slice=gpu_slice)
        await self._store.fleet.record([move, *leases, self._open(Phase.SETUP)])

    async def go(self, state: WorkerState, phase: Phase, **changes: object) -> None:
        """Move, and begin a segment of another phase where the one before ends."""
        self.worker, move = moved(self.worker, state, **changes)
        await self._store.fleet.record([move, self._close(state.value), self._open(phase)])

    async def flip(self, phase: Phase) -> None:
        """Begin a segment of another phase without moving, as active and idle do."""
        await self._store.fleet.record([self._close("flip"), self._open(phase)])

    async def give_back(self) -> None:
        at_boot_ns = self._clock.boot_ns()
        leases: list[FleetChange] = [
            LeaseClosed(gpu_uuid=gpu, worker_id=self.worker.id, at_boot_ns=at_boot_ns)
            for gpu in self.worker.gpu_uuids
        ]
        self.worker, move = moved(self.worker, WorkerState.GONE)
        await self._store.fleet.record([move, self._close("end"), *leases])

    async def run(self, *gpus: GpuUuid, ready_ns: int = 10 * S, gpu_slice: GpuSlice | None = None) -> None:
        """A life from reservation to its end: 1 s set-up, 2 s start, `ready_ns`, 1 s stop, 1 s release."""
        clock = self._clock
        await self.reserve(*gpus, gpu_slice=gpu_slice)
        clock.advance(S)
        await self.go(WorkerState.CREATING, Phase.SETUP)
        await self.go(WorkerState.STARTING, Phase.START, address="10.0.0.9", container_started_ns=clock.wall)
        clock.advance(2 * S)
        await self.go(WorkerState.READY, Phase.IDLE, ready_s=clock.now_s())
        clock.advance(ready_ns)
        await self.go(WorkerState.STOPPING, Phase.STOP)
        clock.advance(S)
        await self.go(WorkerState.RELEASING, Phase.RELEASE, container_finished_ns=clock.wall, exit_code=0)
        clock.advance(S)
        await self.give_back()

    def _open(self, phase: Phase) -> SegmentOpened:
        self.segment = Segment(
            worker_id=self.worker.id,
            seq=self._seq,
            phase=phase,
            endpoint=self.worker.endpoint,
            revision=self.worker.revision,
            gpu_uuids=self.worker.gpu_uuids,
            boot_id=self._clock.boot_id,
            start_boot_ns=self._clock.boot_ns(),
            start_wall_ms=self._clock.at_ms(),
            share_ppm=self.worker.gpu_slice.share_ppm if self.worker.gpu_slice else WHOLE_PPM,
        )
        self._seq += 1
        return SegmentOpened(segment=self.segment)

    def _close(self, reason: str) -> SegmentClosed:
        assert self.segment is not None
        ended = replace(self.segment, end_boot_ns=self._clock.boot_ns(), close_reason=reason)
        ended, self.had_ns = with_shares(ended, self.had_ns), {}
        self.segment = None
        return SegmentClosed(segment=ended)
