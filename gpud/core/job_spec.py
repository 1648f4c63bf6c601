"""What an endpoint's spec says about jobs, and what of that is legal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.request_path import REQUEST_PATH, is_request_path

if TYPE_CHECKING:
    from collections.abc import Callable


class OnAdopt(StrEnum):
    """What becomes of a worker that ran a job when the daemon was killed."""

    AUTO = "auto"
    """`recycle` with one slot, else `wait`."""
    RECYCLE = "recycle"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNeeds:
    """How jobs reach the workers of an endpoint. Applies at once, outside revisions.

    Args:
        path: Jobs are POSTed here.
        cancel_path: Where a worker is asked to stop a job; empty when it cannot be asked.
        status_path: Where a worker tells what became of a job, with `/<id>` behind it, when the daemon was
            away at its end; empty when it cannot tell.
        execution_timeout_s: For one attempt, unless the job says otherwise.
        max_attempts: Of those a job is to blame for.
        on_adopt: What becomes of a worker that ran a job when the daemon was killed.
    """

    path: str = "/"
    cancel_path: str = ""
    status_path: str = ""
    execution_timeout_s: float = 600.0
    max_attempts: int = 3
    on_adopt: OnAdopt = OnAdopt.AUTO

    def recycles(self, concurrency: int) -> bool:
        """Whether a worker found running with lost work is replaced."""
        if self.on_adopt is OnAdopt.AUTO:
            return concurrency == 1
        return self.on_adopt is OnAdopt.RECYCLE


def require_jobs(jobs: JobNeeds, require: Callable[[bool, str, str], None]) -> None:
    """Name each fault."""
    require(is_request_path(jobs.path), "jobs.path", REQUEST_PATH)
    require(
        not jobs.cancel_path or is_request_path(jobs.cancel_path),
        "jobs.cancel_path",
        "must be empty, or start with '/' and hold only printable ASCII",
    )
    require(
        not jobs.status_path or (is_request_path(jobs.status_path) and "?" not in jobs.status_path),
        "jobs.status_path",
        "must be empty, or start with '/' and hold only printable ASCII, without '?'",
    )
    require(
        5 <= jobs.execution_timeout_s <= 604_800, "jobs.execution_timeout_s", "must be 5 to 604800 (7 days)"
    )
    require(1 <= jobs.max_attempts <= 25, "jobs.max_attempts", "must be 1 to 25")
