"""Why a wish is not met yet: the reasons shown on every surface, in the same words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReason:
    """Why a wish of an endpoint is not met yet, and what would change it.

    Args:
        reason: `waiting_for_gpu`, `image_pulling`, `start_backoff`, `circuit_open`,
            `gpu_unhealthy`, `worker_starting`, `engine_down`, `storage_full` or `paused`.
        detail: One sentence for a person.
        facts: JSON-ready, such as `held_by` or `next_try_s`.
    """

    reason: str
    detail: str
    facts: dict[str, object] = field(default_factory=dict)
