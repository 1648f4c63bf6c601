"""What one decision costs: `core.reconcile.plan` on a box of many endpoints."""

from __future__ import annotations

import gc
import resource
import time
from typing import TYPE_CHECKING

from gpud.core.demand import LoadWindow
from gpud.core.endpoint import Endpoint, EndpointSpec, PinnedImage, ScalePolicy
from gpud.core.gpu import Gpu, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.reconcile import plan
from gpud.core.worker import Worker, WorkerState
from gpud.core.world import EndpointSeen, World

if TYPE_CHECKING:
    from bench_lib.report import Report

WORKERS = 200
NOW_S = 100_000.0


def measure_ticks(report: Report, *, quick: bool) -> None:
    """Time decisions with 200 workers, a fifth of them busy, beside idle endpoints."""
    for endpoints in (10, 1000) if quick else (10, 100, 1000, 10_000):
        world = _world(endpoints)
        rounds = 5 if quick else max(10, min(100, 100_000 // endpoints))
        plan(world)
        gc.collect()
        took_ms = []
        for _ in range(rounds):
            began_s = time.perf_counter()
            plan(world)
            took_ms.append((time.perf_counter() - began_s) * 1000)
        report.add(f"tick_ms_{endpoints}_endpoints", "gpud", "ms", took_ms)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.add("rss_mib_after_the_largest", "gpud", "MiB", [peak_mib])


def _world(endpoints: int) -> World:
    names = [EndpointName(f"endpoint-{number}") for number in range(endpoints)]
    workers = {
        WorkerId(f"wk_{number:016d}"): _worker(number, names[number % endpoints]) for number in range(WORKERS)
    }
    serving = {worker.endpoint for worker in workers.values()}
    busy = {worker_id: 1 for number, worker_id in enumerate(workers) if number % 5 == 0}
    loads = {workers[worker_id].endpoint: 0 for worker_id in busy}
    for worker_id in busy:
        loads[workers[worker_id].endpoint] += 1
    return World(
        now_s=NOW_S,
        endpoints={
            name: EndpointSeen(
                endpoint=_endpoint(name),
                window=LoadWindow(((NOW_S - 10.0, 4), (NOW_S, loads.get(name, 0))))
                if name in serving
                else LoadWindow(((NOW_S, 0),)),
                load=loads.get(name, 0),
                image_present=True,
            )
            for name in names
        },
        workers=workers,
        in_flight=busy,
        gpus=tuple(
            GpuStatus(gpu=Gpu(uuid=GpuUuid(f"GPU-{number}"), name="GPU", memory_mib=24_000, index=number))
            for number in range(WORKERS)
        ),
    )


def _endpoint(name: EndpointName) -> Endpoint:
    spec = EndpointSpec(
        name=name, image="team/model:1", port=8000, scale=ScalePolicy(max_workers=20, concurrency=1)
    )
    image = PinnedImage(reference=spec.image, pin="sha256:" + "ab" * 32)
    return Endpoint(spec=spec, image=image, revision=Revision("r" * 12), created_at_ms=0, updated_at_ms=0)


def _worker(number: int, endpoint: EndpointName) -> Worker:
    return Worker(
        id=WorkerId(f"wk_{number:016d}"),
        endpoint=endpoint,
        revision=Revision("r" * 12),
        state=WorkerState.READY,
        generation=5,
        since_s=NOW_S - 500.0,
        created_at_ms=number,
        port=8000,
        address="10.0.0.2",
        ready_s=NOW_S - 500.0,
        gpu_uuids=(GpuUuid(f"GPU-{number}"),),
    )
