"""Where jobs meet the workers: slots to run in, a way to hand them over, and the fleet's say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.routing import RouteWorker
    from gpud.core.worker import Worker
    from gpud.ports.jobs import Claim, Payload


class JobSlot(Protocol):
    """A reserved place at a worker; jobs and requests share them."""

    worker: RouteWorker

    def release(self, now_s: float | None = None) -> None:
        """Give the place back; safe to repeat."""
        ...

    def charge(self, key: str) -> None:
        """Have a key pay for it, from its beginning."""
        ...

    def used_s(self) -> float:
        """Its part of the worker's time so far; 0 once it is given back."""
        ...

    def judge(self, now_s: float, *, failed: bool) -> None:
        """Say how it went as far as the worker is concerned."""
        ...

    def broke(self, now_s: float, detail: str) -> None:
        """The worker broke the connection before answering; the fleet is told."""
        ...


class JobSlots(Protocol):
    """Gives slots to jobs, when no request waits for them."""

    def take_job_slot(self, endpoint: EndpointName, *, alone: bool) -> JobSlot | None:
        """Reserve a slot now, or None.

        Args:
            endpoint: Whose worker.
            alone: The whole worker, which must be idle.
        """
        ...

    def watch_slots(self, freed: Callable[[EndpointName], None]) -> None:
        """Be told, synchronously, of endpoints that may have a free slot."""
        ...

    def worker_in_flight(self, worker_id: WorkerId) -> int:
        """Requests and jobs at one worker now."""
        ...


class JobPlace(Protocol):
    """A job at a worker that came for it itself; counted until it is released."""

    def release(self, now_s: float | None = None) -> None:
        """Give the place back; safe to repeat."""
        ...

    def charge(self, key: str) -> None:
        """Have a key pay for it, from its beginning."""
        ...

    def used_s(self) -> float:
        """Its part of the worker's time so far; 0 once it is given back."""
        ...

    def judge(self, now_s: float, *, failed: bool) -> None:
        """Say how it went as far as the worker is concerned."""
        ...


class WorkerPlaces(Protocol):
    """Counts the jobs of workers that choose themselves how many they take."""

    def take_place(self, endpoint: EndpointName, worker_id: WorkerId) -> JobPlace | None:
        """Count one more job at a worker; None unless it is READY and known as such to the gateway."""
        ...

    def count_job(self, endpoint: EndpointName, worker_id: WorkerId) -> JobPlace:
        """Count a job that a worker has already, in whatever state it is."""
        ...


class JobRoom(JobSlots, WorkerPlaces, Protocol):
    """Where jobs run, pushed or fetched: the gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """One delivery to one worker.

    Args:
        path: Where the worker takes jobs.
        cancel_path: Where it is asked to stop one; empty when it cannot be asked.
        headers: That tell it which job, attempt, delivery and deadline this is.
    """

    worker: RouteWorker
    claim: Claim
    path: str
    cancel_path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAnswer:
    """What a worker answered, whole.

    Args:
        headers: Lower-case names.
        streamed: It came in chunks, all of which were reported; `payload` holds them as a JSON array.
    """

    status: int
    headers: Mapping[str, str]
    payload: Payload
    streamed: bool = False


class HandoverFailed(Exception):
    """The worker did not answer.

    Args:
        detail: For people.
        sent: The worker may have begun to run the job.
    """

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.sent = sent


class JobCarrier(Protocol):
    """Brings jobs to workers."""

    async def deliver(self, handover: Handover, on_chunk: Callable[[bytes], None]) -> WorkerAnswer:
        """Send a job and wait for its answer; cancelling closes the connection.

        Args:
            handover: Which job, to whom.
            on_chunk: Told of each part of a streamed answer, as JSON text.

        Raises:
            HandoverFailed: No answer came.
        """
        ...

    async def ask_outcome(self, handover: Handover, status_path: str) -> WorkerAnswer:
        """Ask a worker what became of a job that it was given earlier.

        Raises:
            HandoverFailed: No answer came.
        """
        ...

    async def ask_to_stop(self, handover: Handover) -> None:
        """Ask a worker to stop a job; whatever it answers."""
        ...


class WorkerFates(Protocol):
    """What the fleet knows and does about one worker."""

    def worker(self, worker_id: WorkerId) -> Worker | None:
        """The worker as it is now; None when it is gone."""
        ...

    def asked_to_stop(self, worker_id: WorkerId) -> bool:
        """Whether gpud itself is ending the worker."""
        ...

    def exit_code(self, worker_id: WorkerId) -> int | None:
        """Of its container, as far as known."""
        ...

    async def recycle(self, worker_id: WorkerId) -> None:
        """Have a worker replaced: what it still computes is of no use. Does nothing when it is gone."""
        ...
