"""What jobs used, by the places that they have at workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gpud.core.ids import EndpointName, GpuUuid
from gpud.core.job_request import JobPolicy, accepted, job_id
from gpud.core.worker import WorkerState
from gpud.jobs.metering import JobMetering
from tests.unit.core.making import worker as a_worker


class _Place:
    def __init__(self, used_s: float) -> None:
        self._used_s = used_s

    def charge(self, key: str) -> None:
        """Nobody is asked."""

    def used_s(self) -> float:
        return self._used_s


def test_a_job_that_runs_elsewhere_is_charged_though_the_worker_before_lets_go_of_it_late() -> None:
    metering = JobMetering()
    worker = a_worker(state=WorkerState.READY, gpu_uuids=(GpuUuid("GPU-a"),))
    fates: Any = SimpleNamespace(worker=lambda _: worker)
    metering.fates = fates
    before, now = _Place(1.0), _Place(2.0)
    job = accepted(
        job_id(0, "job_" + "a" * 16, sync=False),
        endpoint=EndpointName("llm"),
        owner="local",
        policy=JobPolicy(),
        now_ms=0,
    )
    for place in (before, now):
        kept: Any = place
        metering.began(job, kept)
    late: Any = before
    metering.over(job.id, late)
    assert metering.charged(job).gpu_ns == 2_000_000_000
    mine: Any = now
    metering.over(job.id, mine)
    assert metering.charged(job) == job
