"""A fleet door for tests of the API: it keeps what it is told and starts nothing."""

from __future__ import annotations

import asyncio
import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.endpoint import Endpoint, EndpointSpec, EndpointType, PinnedImage
from gpud.core.forecast import Forecast, Leaver
from gpud.core.gpu import Gpu, GpuHealth, GpuStatus, GpuUse
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.image_gc import ImagePolicy, PulledImage, plan_images
from gpud.core.revision import revision_of
from gpud.core.waiting import WaitReason
from gpud.core.worker import Cause, Worker, WorkerState
from gpud.errors import Conflict, ImageNotFound, InvalidSpec, NotFound
from gpud.ports.control import DaemonHealth, EndpointCondition, EndpointView, GpuView
from gpud.ports.images import ImageCollection, LocalImage, PullProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.revision import RevisionRecord

DIGEST = "sha256:" + "ab" * 32


class FakeFleetControl:
    """Implements `FleetControl` in memory.

    Args:
        now_ms: Wall time, for rows.
        gpu_count: GPUs of the box, named `GPU-0`, `GPU-1`, ...
    """

    def __init__(self, now_ms: Callable[[], int], *, gpu_count: int = 2) -> None:
        self._now_ms = now_ms
        self.deployed: dict[EndpointName, Endpoint] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.views: dict[str, EndpointView] = {}
        self.local_images: dict[str, LocalImage] = {}
        self.running_pulls: dict[str, PullProgress] = {}
        self.gpu_statuses = {
            GpuUuid(f"GPU-{i}"): GpuStatus(
                gpu=Gpu(uuid=GpuUuid(f"GPU-{i}"), name="Fake GPU", memory_mib=24_576, index=i)
            )
            for i in range(gpu_count)
        }
        self.stopped: list[tuple[WorkerId, bool]] = []
        self.retried: list[str] = []
        self.revision_records: list[RevisionRecord] = []
        self.rolled_back: list[tuple[str, str]] = []
        self.parts = {"store": "", "engine": "", "gpus": ""}
        self.raises: Exception | None = None
        """Raised by the next change, to see how an error is told."""

    async def deploy(self, spec: EndpointSpec) -> tuple[Endpoint, bool]:
        self._maybe_raise()
        if spec.gpus.count > len(self.gpu_statuses):
            why = f"this box has {len(self.gpu_statuses)} GPUs"
            raise InvalidSpec(f"gpus.count: {why}.", fields={"gpus.count": why})
        if "missing" in spec.image:
            raise ImageNotFound(f"There is no image {spec.image}, here or in its registry.")
        await asyncio.sleep(0)  # Whoever reads before this and writes after it must have taken turns.
        present = self.deployed.get(spec.name)
        image = PinnedImage(reference=spec.image, pin=f"{spec.image}@{DIGEST}", exposed_ports=(8000,))
        spec = replace(spec, port=spec.port or (0 if spec.type is EndpointType.QUEUE else 8000))
        now_ms = self._now_ms()
        endpoint = Endpoint(
            spec=spec,
            image=image,
            revision=revision_of(spec, image),
            created_at_ms=present.created_at_ms if present else now_ms,
            updated_at_ms=now_ms,
        )
        self.deployed[spec.name] = endpoint
        return endpoint, present is None

    async def forecast(self, spec: EndpointSpec) -> Forecast:
        before = dict(self.deployed)
        endpoint, is_new = await self.deploy(spec)
        self.deployed = before
        wait = WaitReason(reason="waiting_for_gpu", detail="Held by other.", facts={"held_by": ["other"]})
        return Forecast(
            endpoint=endpoint,
            change="create" if is_new else "restart",
            workers=2,
            present=0,
            placements=((GpuUuid("GPU-0"),),),
            leavers=(
                Leaver(
                    worker_id=WorkerId("wk_bbbbbbbbbbbbbbbb"),
                    endpoint=EndpointName("other"),
                    in_s=12.3,
                    busy=True,
                ),
            ),
            wait=wait,
            image_present=False,
            gpu_wait_s=0.0,
            cold_start_s=40.0,
            cold_start_measured=True,
        )

    async def delete_endpoint(self, name: EndpointName) -> None:
        self._maybe_raise()
        self._endpoint(name)
        del self.deployed[name]

    def endpoints(self) -> tuple[EndpointView, ...]:
        return tuple(self.endpoint(name) for name in sorted(self.deployed))

    def endpoint(self, name: str) -> EndpointView:
        endpoint = self._endpoint(name)
        if name in self.views:
            return self.views[name]
        workers = tuple(worker for worker in self.workers.values() if worker.endpoint == name)
        return EndpointView(
            endpoint=endpoint,
            condition=EndpointCondition.READY if workers else EndpointCondition.SLEEPING,
            desired=len(workers),
            scale_reason="load" if workers else "steady",
            workers=workers,
            waiting=0,
            in_flight=0,
        )

    def live_workers(self) -> tuple[Worker, ...]:
        return tuple(sorted(self.workers.values(), key=lambda one: (one.created_at_ms, one.id)))

    def worker(self, worker_id: str) -> Worker:
        worker = self.workers.get(WorkerId(worker_id))
        if worker is None:
            raise NotFound(f"There is no live worker {worker_id!r}.")
        return worker

    async def stop_worker(self, worker_id: WorkerId, *, force: bool) -> None:
        self._maybe_raise()
        worker = self.worker(worker_id)
        self.workers[worker_id] = replace(worker, state=WorkerState.DRAINING, cause=Cause.OPERATOR)
        self.stopped.append((worker_id, force))

    async def revisions(self, name: str) -> tuple[RevisionRecord, ...]:
        self._endpoint(name)
        return tuple(self.revision_records)

    async def rollback(self, name: EndpointName, wanted: str) -> Endpoint:
        self._maybe_raise()
        self.rolled_back.append((name, wanted))
        return self._endpoint(name)

    async def retry(self, name: EndpointName) -> None:
        self._maybe_raise()
        self._endpoint(name)
        self.retried.append(name)

    async def gpus(self) -> tuple[GpuView, ...]:
        return tuple(self._gpu_view(status) for status in self.gpu_statuses.values())

    async def set_cordon(self, uuid: GpuUuid, *, cordoned: bool) -> None:
        self._maybe_raise()
        if uuid not in self.gpu_statuses:
            raise NotFound(f"There is no GPU {uuid!r} on this box.")
        self.gpu_statuses[uuid] = replace(
            self.gpu_statuses[uuid],
            health=GpuHealth.CORDONED if cordoned else GpuHealth.HEALTHY,
            reason="by an operator" if cordoned else "",
            since_ms=self._now_ms(),
        )

    async def images(self) -> tuple[LocalImage, ...]:
        return tuple(self.local_images.values())

    async def prewarm(self, reference: str, registry: str) -> str:
        self._maybe_raise()
        if registry:
            raise NotFound(f"There is no registry named {registry!r}.")
        pin = f"{reference}@{DIGEST}"
        self.running_pulls[pin] = PullProgress(layers=0, layers_done=0, bytes_total=0, bytes_done=0)
        return pin

    async def remove_image(self, pin: str) -> None:
        self._maybe_raise()
        users = [one.name for one in self.deployed.values() if one.image.pin == pin]
        if users:
            raise Conflict(f"The endpoints {', '.join(users)} use {pin}.")
        self.local_images.pop(pin, None)

    async def collect_images(self, *, dry_run: bool, everything: bool) -> ImageCollection:
        self._maybe_raise()
        needed = {one.image.pin for one in self.deployed.values()}
        images = [
            PulledImage(id=one.id, pins=one.pins, size_bytes=one.size_bytes, used_at_ms=one.created_at_ms)
            for one in self.local_images.values()
        ]
        plan = plan_images(
            images,
            needed_pins=needed,
            policy=ImagePolicy(),
            free_bytes=None,
            now_ms=self._now_ms(),
            everything=everything,
        )
        if not dry_run:
            gone = {image.id for image in plan.remove}
            kept = {pin: one for pin, one in self.local_images.items() if one.id not in gone}
            self.local_images = kept
        return ImageCollection(plan=plan, removed=plan.remove, free_bytes=None)

    def pulls(self) -> dict[str, PullProgress]:
        return dict(self.running_pulls)

    def health(self) -> DaemonHealth:
        return DaemonHealth(
            ready=not any(self.parts.values()),
            version="0.1.0",
            gpu_source="static",
            uptime_s=12.5,
            parts=dict(self.parts),
        )

    def add_worker(self, worker_id: str, endpoint: str, **facts: object) -> Worker:
        """A live worker of an endpoint."""
        worker = Worker(
            id=WorkerId(worker_id),
            endpoint=EndpointName(endpoint),
            revision=self._endpoint(endpoint).revision,
            state=WorkerState.READY,
            generation=5,
            since_s=0.0,
            created_at_ms=self._now_ms(),
            port=8000,
            cause=Cause.PROBE_PASSED,
        )
        worker = replace(worker, **facts)  # type: ignore[arg-type]
        self.workers[worker.id] = worker
        return worker

    def _maybe_raise(self) -> None:
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self.deployed.get(EndpointName(name))
        if endpoint is None:
            near = difflib.get_close_matches(name, list(self.deployed), n=3)
            hint = f" Near names: {', '.join(near)}." if near else ""
            raise NotFound(f"There is no endpoint named {name!r}.{hint}", extra={"near": near})
        return endpoint

    def _gpu_view(self, status: GpuStatus) -> GpuView:
        holders = tuple(w for w in self.workers.values() if status.gpu.uuid in w.gpu_uuids)
        return GpuView(
            status=status,
            holders=holders,
            use=GpuUse(uuid=status.gpu.uuid, used_mib=1000 if holders else 0),
        )
