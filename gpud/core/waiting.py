"""Why a wish is not met yet, and what would change it: shown on every surface in the same words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReason:
    """Why a wish of an endpoint is not met yet, and what would change it.

    Args:
        reason: A key of `REMEDIES`.
        detail: One sentence for a person.
        facts: JSON-ready, such as `held_by` or `retry_in_s`.
        ends_at_s: Loop time at which it is expected to end or to be tried again; None when unknown.
        until_ms: The same as Unix wall time, told by whoever shows it; 0 when unknown.
    """

    reason: str
    detail: str
    facts: dict[str, object] = field(default_factory=dict)
    ends_at_s: float | None = None
    until_ms: int = 0


REMEDIES = {
    "waiting_for_gpu": "It goes on when a holder's turn or load ends. A larger scale.priority of {name} "
    "ends that sooner; `gpud gpu ls` says who holds what.",
    "gpu_unhealthy": "Mend or replace the GPU, then `gpud gpu uncordon UUID`; see `gpud gpu ls`.",
    "start_limit": "It goes on when a start under way has ended. scaling.starts and scaling.endpoint_starts "
    "in gpud.toml say how many there may be at once.",
    "image_pulling": "It goes on when the image is here; `gpud image prewarm` pulls one ahead of time.",
    "worker_starting": "It goes on when the worker answers its probe. A start that does not is ended after "
    "health.start_timeout_s.",
    "start_backoff": "Another try comes by itself; `gpud endpoint retry {name}` tries now.",
    "circuit_open": "Mend the cause, then `gpud endpoint retry {name}`. A try comes by itself now and then.",
    "rolling_out": "It goes on by itself; `gpud rollback {name}` goes back to the revision before.",
    "engine_down": "See `systemctl status docker`; it goes on by itself when the engine answers.",
    "budget_spent": "It begins anew with the next day or month; until then raise it in [[budgets.limits]] of "
    "gpud.toml and restart gpud. Workers that run go on.",
    "standby_unavailable": "Requests are served all the same, after a slower start. Mend the cause, or lower "
    "standby.mode; gpud tries again by itself.",
    "standby_budget": "Requests are served all the same, after a slower start. Raise the limit that is named "
    "or have another endpoint keep fewer.",
    "sleep_budget": "Nothing waits for it; the worker goes on holding its GPUs. Raise the limit that is "
    "named, or have another endpoint's workers end sooner (scale.idle_timeout_s).",
    "pause_budget": "Nothing waits for it; the worker goes on as it is. Raise the limit that is named.",
    "paused": "`gpud endpoint scale {name} --max-workers 1` lets it serve.",
}
"""Who or what changes each reason, for a person."""


def remedy(wait: WaitReason, endpoint: EndpointName) -> str:
    """Say who or what would change why an endpoint waits."""
    return REMEDIES[wait.reason].format(name=endpoint)
