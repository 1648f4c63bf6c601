"""A new revision replaces the old one worker for one, and never takes more than it can give back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.demand import LoadWindow
from gpud.core.endpoint import Endpoint, EndpointSpec, PinnedImage, PolicyName, ScalePolicy
from gpud.core.gpu import Gpu, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.reconcile import plan
from gpud.core.worker import Cause, Worker, WorkerEvent, WorkerState, advance
from gpud.core.world import EndpointSeen, NewWorker, World

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = EndpointName("rolling")
OLD, NEW = Revision("0" * 12), Revision("1" * 12)
NOW_S = 1000.0


class Box:
    """An endpoint with workers on a few GPUs, whose plans are applied as the reconciler does."""

    def __init__(self, *, gpus: int, old: int, load: int = 0, recent: int = 0, fixed: int = 0) -> None:
        self.gpus = tuple(
            GpuStatus(gpu=Gpu(uuid=GpuUuid(f"GPU-{i}"), name="", memory_mib=1)) for i in range(gpus)
        )
        policy = PolicyName.FIXED if fixed else PolicyName.CONCURRENCY
        scale = ScalePolicy(max_workers=fixed or 4, policy=policy, concurrency=1)
        endpoint = Endpoint(
            spec=EndpointSpec(name=NAME, image="a", port=1, scale=scale),
            image=PinnedImage(reference="a", pin="sha256:a"),
            revision=NEW,
            created_at_ms=0,
            updated_at_ms=0,
        )
        window = LoadWindow().observed(recent, at_s=NOW_S - 10, span_s=60)
        self.seen = EndpointSeen(endpoint=endpoint, window=window, load=load, image_present=True)
        self.workers = {w.id: w for w in (self._ready(f"old{i}", OLD, i) for i in range(old))}

    @staticmethod
    def _ready(name: str, revision: Revision, gpu: int) -> Worker:
        return Worker(
            id=WorkerId(name),
            endpoint=NAME,
            revision=revision,
            state=WorkerState.READY,
            generation=1,
            since_s=0.0,
            created_at_ms=gpu,
            port=1,
            gpu_uuids=(GpuUuid(f"GPU-{gpu}"),),
            ready_s=0.0,
        )

    def settle(self) -> None:
        """Plan and apply until nothing changes."""
        for _ in range(50):
            world = World(
                now_s=NOW_S, endpoints={NAME: self.seen}, workers=self.workers, in_flight={}, gpus=self.gpus
            )
            changes = [c for c in plan(world).changes if isinstance(c, NewWorker | WorkerEvent)]
            applied = [self._apply(change) for change in changes]
            if not any(applied):
                return
        raise AssertionError("the plan does not settle")

    def _apply(self, change: NewWorker | WorkerEvent) -> bool:
        if isinstance(change, NewWorker):
            name = f"new{len(self.workers)}"
            new = replace(self._ready(name, NEW, 0), state=WorkerState.PENDING, gpu_uuids=(), ready_s=None)
            self.workers[new.id] = new
            return True
        after = advance(self.workers[change.worker_id], change, now_s=NOW_S)
        if after is not None:
            self.workers[after.id] = after
        return after is not None

    def happens(self, worker: Worker, *causes: Cause) -> None:
        """The outside world tells of a worker."""
        for cause in causes:
            self._apply(WorkerEvent(worker_id=worker.id, cause=cause))
            if self.workers[worker.id].state is WorkerState.GONE:
                del self.workers[worker.id]

    def of(self, revision: Revision, *states: WorkerState) -> list[Worker]:
        """Workers of a revision in these states."""
        return [w for w in self.workers.values() if w.revision == revision and w.state in states]


def names(workers: Iterable[Worker]) -> list[str]:
    return [worker.id for worker in workers]


def test_old_workers_serve_until_a_new_one_is_ready_even_in_a_quiet_moment() -> None:
    box = Box(gpus=2, old=1, load=0, recent=1)
    box.settle()
    assert names(box.of(OLD, WorkerState.READY)) == ["old0"]
    (new,) = box.of(NEW, WorkerState.CREATING)
    box.happens(new, Cause.CONTAINER_STARTED, Cause.PROBE_PASSED)
    box.settle()
    assert names(box.of(OLD, WorkerState.STOPPING)) == ["old0"]


def test_on_a_full_box_one_old_worker_makes_room_and_the_next_waits_for_its_successor() -> None:
    box = Box(gpus=3, old=3, fixed=3)
    box.settle()
    assert len(box.of(OLD, WorkerState.READY)) == 2
    (leaving,) = box.of(OLD, WorkerState.STOPPING)
    box.happens(leaving, Cause.CONTAINER_STOPPED, Cause.RELEASED)
    box.settle()
    (new,) = box.of(NEW, WorkerState.CREATING)
    assert len(box.of(OLD, WorkerState.READY)) == 2, "its successor is not there yet"
    box.happens(new, Cause.CONTAINER_STARTED, Cause.PROBE_PASSED)
    box.settle()
    assert len(box.of(OLD, WorkerState.READY)) == 1


def test_a_revision_that_does_not_start_takes_one_place_and_no_more() -> None:
    box = Box(gpus=2, old=2, fixed=2)
    for _ in range(3):
        box.settle()
        for leaving in box.of(OLD, WorkerState.STOPPING):
            box.happens(leaving, Cause.CONTAINER_STOPPED, Cause.RELEASED)
        box.settle()
        for new in box.of(NEW, WorkerState.CREATING):
            box.happens(new, Cause.CONTAINER_STARTED)
    assert len(box.of(OLD, WorkerState.READY)) == 1
    assert len(box.of(NEW, WorkerState.STARTING)) == 1


def test_where_nobody_calls_old_workers_go_at_once() -> None:
    box = Box(gpus=2, old=2)
    box.settle()
    assert box.of(OLD, WorkerState.READY) == []
    assert box.of(NEW, *WorkerState) == []
