"""What a job used: its part of its worker's time, counted as GPU time, and what that costs.

A job that shares its worker has the n-th part of each moment in which n ran there (semantics, section 7).
It is part of what its worker is billed, and never billed in addition.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gpud.core.gpu import WHOLE_PPM
from gpud.core.ids import WorkerId
from gpud.core.job_use import cost_micros, gpu_ns

if TYPE_CHECKING:
    from gpud.core.ids import GpuUuid, JobId
    from gpud.core.job import Job
    from gpud.core.worker import Worker
    from gpud.ports.work import JobPlace, JobSlot, WorkerFates


class Rates(Protocol):
    """What a worker's time is worth."""

    def price_micros(self, gpu: GpuUuid) -> int:
        """An hour of a GPU, now."""
        ...

    def energy_mj(self, worker_id: WorkerId, ns: int) -> int:
        """What a worker drew in so much of its time, up to now, as far as that is known."""
        ...


class NoRates:
    """Time costs nothing."""

    def price_micros(self, gpu: GpuUuid) -> int:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return 0

    def energy_mj(self, worker_id: WorkerId, ns: int) -> int:  # noqa: ARG002 - the protocol's
        """Nothing is known."""
        return 0


class JobMetering:
    """Knows the places of all jobs that run.

    Attributes:
        fates: The fleet, once it is there.
        rates: What its time is worth.
    """

    def __init__(self) -> None:
        self.fates: WorkerFates | None = None
        self.rates: Rates = NoRates()
        self._places: dict[JobId, JobPlace | JobSlot] = {}

    def began(self, job: Job, place: JobPlace | JobSlot) -> None:
        """A job was given a place: its owner pays for it."""
        place.charge(job.owner)
        self._places[job.id] = place

    def over(self, job_id: JobId, place: JobPlace | JobSlot) -> None:
        """A delivery's end is written, or its place given back; safe to repeat.

        A worker that is told to stop keeps its place for a while, and the job may be at another's by then.
        """
        if self._places.get(job_id) is place:
            del self._places[job_id]

    def charged(self, job: Job) -> Job:
        """The job with what it used up to now, what its earlier deliveries used included."""
        place = self._places.get(job.id)
        worker = self._worker_of(job)
        if place is None or worker is None:
            return job
        ns = round(max(place.used_s(), 0.0) * 1e9)
        share_ppm = worker.gpu_slice.share_ppm if worker.gpu_slice else WHOLE_PPM
        prices = [self.rates.price_micros(uuid) for uuid in worker.gpu_uuids]
        return replace(
            job,
            gpu_ns=job.gpu_ns + gpu_ns(ns, gpus=len(prices), share_ppm=share_ppm),
            cost_micros=job.cost_micros + cost_micros(ns, prices_micros=prices, share_ppm=share_ppm),
            energy_mj=job.energy_mj + self.rates.energy_mj(worker.id, ns),
        )

    def _worker_of(self, job: Job) -> Worker | None:
        return self.fates.worker(WorkerId(job.worker_id)) if self.fates is not None else None
