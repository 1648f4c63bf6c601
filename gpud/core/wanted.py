"""What woke a worker, in words that events, the API, the command line and the dashboard share."""

from __future__ import annotations

from dataclasses import dataclass

from gpud.core.pacing import ScaleReason

ROLLOUT = "rollout"
"""The word for workers that a rollout makes; all others are scale reasons."""

_OF_LOAD = {
    ScaleReason.QUEUE_DELAY: "Rule: queue_delay.",
    ScaleReason.REQUEST_COUNT: "Rule: request_count.",
    ScaleReason.CONCURRENCY: "Rule: concurrency.",
    ScaleReason.ACTIVATION: "scale.activation_workers says how many start at once.",
    ScaleReason.PANIC: "Its load had jumped within seconds.",
    ScaleReason.UP_RATE: "No more may be added at once.",
    ScaleReason.MAX_WORKERS: "scale.max_workers allows no more.",
}
_OF_ITSELF = {
    ScaleReason.FIXED: "Its policy is a fixed number of workers.",
    ScaleReason.MIN_WORKERS: "scale.min_workers keeps so many.",
    ScaleReason.WARM_WINDOW: "A window of scale.warm_windows is open.",
    ScaleReason.IDLE_TIMEOUT: "It is kept warm: its load of the last scale.idle_timeout_s had use for one.",
    ScaleReason.DOWN_DELAY: "It is kept warm: one was needed moments before.",
    ROLLOUT: "A rollout makes workers of another revision.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Why a worker was made, or woken.

    Args:
        why: The scale reason, or `rollout`; empty where nothing was written down.
        waiting: Requests and jobs of the endpoint that waited then.
        jobs: Of these, jobs.
        in_flight: Those that were at workers.
    """

    why: str = ""
    waiting: int = 0
    jobs: int = 0
    in_flight: int = 0


UNKNOWN = Wanted()


def told(wanted: Wanted) -> str:
    """Say it in a sentence or two; empty where nothing is known."""
    if wanted.why in _OF_LOAD:
        return f"{_load(wanted)} {_OF_LOAD[ScaleReason(wanted.why)]}"
    return next((text for word, text in _OF_ITSELF.items() if word == wanted.why), wanted.why)


def _load(wanted: Wanted) -> str:
    waiting = [
        _counted(wanted.waiting - wanted.jobs, "request"),
        _counted(wanted.jobs, "job"),
    ]
    parts = [f"{' and '.join(filter(None, waiting))} waited"] if any(waiting) else []
    if wanted.in_flight:
        parts.append(f"{wanted.in_flight} {'was' if wanted.in_flight == 1 else 'were'} under way")
    return f"{', '.join(parts) or 'It was called moments before'}."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}" if number > 0 else ""
