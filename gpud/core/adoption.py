"""What the engine shows against what the rows say: which workers live on, which ended, what is astray."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpud.core.ids import GpuUuid, WorkerId
    from gpud.core.worker import Worker

_WITH_CONTAINER = frozenset(
    {
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.NOT_READY,
        WorkerState.PAUSED,
        WorkerState.DOZING,
        WorkerState.SLEEPING,
        WorkerState.WAKING,
        WorkerState.DRAINING,
    }
)
"""States in which a container must be running. In the others an effort is under way that asks
the engine by name itself, and is safe to repeat."""


class Verdict(StrEnum):
    """What one worker or container turned out to be."""

    ALIVE = "alive"
    ENDED = "ended"
    MISSING = "missing"
    MISMATCHED = "mismatched"
    STRAY = "stray"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """What the judgement needs of a container; one that is neither running nor ended is being started."""

    worker_id: WorkerId
    running: bool
    ended: bool
    gpu_uuids: tuple[GpuUuid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict on one worker id."""

    worker_id: WorkerId
    verdict: Verdict


def judge_containers(
    workers: Mapping[WorkerId, Worker], containers: Iterable[ContainerFacts]
) -> tuple[Finding, ...]:
    """Compare rows with containers, as the table of semantics section 6 says.

    Args:
        workers: Live ones.
        containers: Every container with this install's label.

    Returns:
        One finding for each worker that should have a running container, and for each container
        that no row explains. A container that was not started yet when the engine looked says
        nothing about a worker that has been told of its start since. MISSING rests on one
        listing alone: confirm it by name before acting on it.
    """
    seen = {container.worker_id: container for container in containers}
    findings = []
    for worker in workers.values():
        if worker.state not in _WITH_CONTAINER:
            continue
        container = seen.get(worker.id)
        if container is None:
            verdict = Verdict.MISSING
        elif container.ended:
            verdict = Verdict.ENDED
        elif not container.running:
            continue
        elif set(container.gpu_uuids) != set(worker.gpu_uuids):
            verdict = Verdict.MISMATCHED
        else:
            verdict = Verdict.ALIVE
        findings.append(Finding(worker_id=worker.id, verdict=verdict))
    findings.extend(
        Finding(worker_id=worker_id, verdict=Verdict.STRAY) for worker_id in seen if worker_id not in workers
    )
    return tuple(findings)
