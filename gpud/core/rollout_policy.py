"""How an endpoint goes from one revision to the next, as its user says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.request_path import is_request_path

if TYPE_CHECKING:
    from collections.abc import Callable

    _Require = Callable[[bool, str, str], None]

SMOKE_BODY_BYTES_MAX = 65_536


class RolloutStrategy(StrEnum):
    """Whether old and new may run beside each other."""

    ROLLING = "rolling"
    RECREATE = "recreate"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeRequest:
    """One request a new revision must answer well before it takes over.

    Args:
        path: Answers 200 to 399; empty for no smoke request.
        body: Sent as JSON in a POST; empty sends a GET.
        timeout_s: For the whole of it.
    """

    path: str = ""
    body: str = ""
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """How careful a change of revision is. Applies at once, outside revisions.

    Args:
        strategy: `recreate` stops every old worker before the first new one starts.
        verify: An endpoint without workers tries one of the new revision at deploy.
        min_healthy_time_s: How long the first new worker must be ready before it takes over.
        progress_deadline_s: Longest time for one step, waiting for image or GPUs left out.
        smoke: One request that must go well.
    """

    strategy: RolloutStrategy = RolloutStrategy.ROLLING
    verify: bool = True
    min_healthy_time_s: float = 10.0
    progress_deadline_s: float = 600.0
    smoke: SmokeRequest = field(default_factory=SmokeRequest)


def require_rollout(policy: RolloutPolicy, require: _Require) -> None:
    """Note what makes a policy unusable."""
    require(
        0 <= policy.min_healthy_time_s <= 86_400, "rollout.min_healthy_time_s", "must be 0 to 86400 (a day)"
    )
    require(
        1 <= policy.progress_deadline_s <= 86_400, "rollout.progress_deadline_s", "must be 1 to 86400 (a day)"
    )
    smoke = policy.smoke
    require(
        not smoke.path or is_request_path(smoke.path),
        "rollout.smoke.path",
        "must start with '/' and hold only printable ASCII, or be empty",
    )
    require(bool(smoke.path) or not smoke.body, "rollout.smoke.body", "needs rollout.smoke.path")
    require(
        len(smoke.body.encode()) <= SMOKE_BODY_BYTES_MAX,
        "rollout.smoke.body",
        f"must have at most {SMOKE_BODY_BYTES_MAX} bytes",
    )
    require(0.05 <= smoke.timeout_s <= 3600, "rollout.smoke.timeout_s", "must be 0.05 to 3600")
