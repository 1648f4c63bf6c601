"""What a caller asks of the queue, and what the queue takes at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName
    from gpud.core.job_request import JobPolicy
    from gpud.ports.jobs import IdempotencyClaim, Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """What the queue takes at most.

    Args:
        waiting: Jobs of one endpoint.
        waiting_bytes: Of their inputs.
        free_share: Of the disk that must be left for a job to be taken.
    """

    waiting: int = 1_000_000
    waiting_bytes: int = 64 << 30
    free_share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job as its caller asks for it; `path` is the worker's, empty for the endpoint's path for jobs."""

    endpoint: EndpointName
    owner: str
    payload: Payload
    policy: JobPolicy
    sync: bool = False
    webhook: str = ""
    idempotency: IdempotencyClaim | None = None
    path: str = ""
