"""Endpoints, workers and worlds for tests, with as little said as a test needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpud.core.demand import LoadWindow
from gpud.core.endpoint import Endpoint, EndpointSpec, GpuNeeds, PinnedImage, ScalePolicy
from gpud.core.gpu import Gpu, GpuHealth, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.revision import revision_of
from gpud.core.starts import StartRecord
from gpud.core.worker import Worker, WorkerEvent, WorkerState
from gpud.core.world import EndpointSeen, NewWorker, Plan, World

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGEST = "sha256:" + "ab" * 32


def gpu_uuid(number: int) -> GpuUuid:
    return GpuUuid(f"GPU-{number}")


def gpu(number: int = 0, **facts: Any) -> Gpu:
    return Gpu(uuid=gpu_uuid(number), index=number, **{"name": "Test GPU", "memory_mib": 24_576, **facts})


def gpu_statuses(count: int, *, health: GpuHealth = GpuHealth.HEALTHY) -> tuple[GpuStatus, ...]:
    return tuple(GpuStatus(gpu=gpu(number), health=health, reason="as told") for number in range(count))


def spec(
    name: str = "echo", scale: ScalePolicy | None = None, *, gpus: int = 1, **facts: Any
) -> EndpointSpec:
    return EndpointSpec(
        name=EndpointName(name),
        port=8000,
        gpus=GpuNeeds(count=gpus),
        scale=scale or ScalePolicy(),
        **{"image": f"{name}:1", **facts},
    )


def endpoint(
    name: str = "echo", scale: ScalePolicy | None = None, *, gpus: int = 1, pin: str = DIGEST, **facts: Any
) -> Endpoint:
    said = spec(name, scale, gpus=gpus, **facts)
    image = PinnedImage(reference=said.image, pin=pin)
    return Endpoint(
        spec=said, image=image, revision=revision_of(said, image), created_at_ms=0, updated_at_ms=0
    )


def worker_id(number: int) -> WorkerId:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return WorkerId("wk_" + "a" * 14 + letters[number // 26] + letters[number % 26])


def worker(number: int = 0, state: WorkerState = WorkerState.READY, **facts: Any) -> Worker:
    base: dict[str, Any] = {
        "id": worker_id(number),
        "endpoint": EndpointName("echo"),
        "revision": Revision(""),
        "state": state,
        "generation": 1,
        "since_s": 0.0,
        "created_at_ms": number,
        "port": 8000,
    }
    return Worker(**{**base, **facts})


def seen(each: Endpoint, **facts: Any) -> EndpointSeen:
    return EndpointSeen(
        endpoint=each, **{"image_present": True, "window": LoadWindow(), "starts": StartRecord(), **facts}
    )


def world(
    endpoints: Iterable[EndpointSeen] = (), workers: Iterable[Worker] = (), *, gpus: int = 1, **facts: Any
) -> World:
    base: dict[str, Any] = {
        "now_s": 1000.0,
        "endpoints": {each.endpoint.name: each for each in endpoints},
        "workers": {each.id: each for each in workers},
        "in_flight": {},
        "gpus": gpu_statuses(gpus),
    }
    return World(**{**base, **facts})


def events(plan: Plan) -> list[WorkerEvent]:
    return [change for change in plan.changes if isinstance(change, WorkerEvent)]


def news(plan: Plan) -> list[NewWorker]:
    return [change for change in plan.changes if isinstance(change, NewWorker)]
