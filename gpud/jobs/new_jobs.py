"""Remembers the jobs that were just accepted, so that handing one out need not read it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.job import Job
    from gpud.ports.jobs import Payload

JOBS_MAX = 4096
BYTES_MAX = 8 << 20


class NewJobs:
    """Jobs nobody has had yet, with their inputs; as many as there is room for.

    What is remembered may have changed on disk since, so whoever uses it has its row compared.
    """

    def __init__(self, *, jobs_max: int = JOBS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._jobs_max = jobs_max
        self._bytes_left = bytes_max
        self._known: dict[int, tuple[Job, Payload]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, job: Job, payload: Payload) -> None:
        """Remember a job, if there is room."""
        size = len(payload.content)
        if len(self._known) < self._jobs_max and size <= self._bytes_left:
            self._known[job.seq] = (job, payload)
            self._bytes_left -= size

    def take(self, seq: int) -> tuple[Job, Payload] | None:
        """Forget a job; None when it was not known."""
        found = self._known.pop(seq, None)
        if found is not None:
            self._bytes_left += len(found[1].content)
        return found
