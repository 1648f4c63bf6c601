"""When is a worker probed, when do the answers make it unready, and what do they mean in words?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from gpud.core.pull_protocol import SILENT_S

FIRST_PROBE_S = 0.001
"""The shortest interval between two probes of a starting worker."""

_SHARE_DEAF_EARLY, _EARLY_S = 0.0025, 4.0
_SHARE_DEAF = 0.01
_FIRST_HEARD_S, _GROWTH_HEARD = 0.005, 0.05
_LAZY_S = 2.0


class ProbeOutcome(StrEnum):
    """What one health request came to."""

    OK = "ok"
    BAD_STATUS = "bad_status"
    REFUSED = "refused"
    RESET = "reset"
    TIMEOUT = "timeout"
    LOCAL_ERROR = "local_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One health request's answer.

    Args:
        outcome: What it came to.
        status: HTTP status; 0 when there was none, and with BAD_STATUS when the answer was
            not HTTP.
        detail: What a person should know, where the outcome does not say it.
    """

    outcome: ProbeOutcome
    status: int = 0
    detail: str = ""


class ReadinessVerdict(StrEnum):
    """What a probe result changes about a worker that has been ready once."""

    UNCHANGED = "unchanged"
    BECAME_READY = "became_ready"
    BECAME_NOT_READY = "became_not_ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeStreak:
    """Consecutive results that speak against the present readiness.

    Args:
        ready: Whether the worker is in rotation.
        failures: Consecutive failures that count, while ready.
        successes: Consecutive successes, while not ready.
    """

    ready: bool = True
    failures: int = 0
    successes: int = 0


def startup_interval_s(elapsed_s: float, *, listens: bool = False) -> float:
    """Say how long to wait before the next startup probe.

    While nobody listens the kernel refuses by itself: a probe costs the worker nothing, and each
    millisecond is one that users wait. The interval is 1 ms, or a quarter of a percent of the time since
    the start; a hundredth from the fifth second on: 1,300 probes in the first 4 s, 270 more in a minute. A
    worker that listens already has to answer each probe while it loads, so from then on it is a twentieth.

    Args:
        elapsed_s: Since the container started; from 0 on.
        listens: The last probe was not refused.

    Returns:
        Seconds to wait, from `FIRST_PROBE_S` to 2.
    """
    # Paced by the time gone by, so that pacing needs no memory of its own and a late probe corrects itself.
    if listens:
        return min(_FIRST_HEARD_S + elapsed_s * _GROWTH_HEARD, _LAZY_S)
    share = _SHARE_DEAF_EARLY if elapsed_s < _EARLY_S else _SHARE_DEAF
    return min(max(elapsed_s * share, FIRST_PROBE_S), _LAZY_S)


def judge(
    streak: ProbeStreak,
    result: ProbeResult,
    *,
    in_flight: int,
    fail_threshold: int,
    success_threshold: int = 1,
    overdue: bool = False,
) -> tuple[ProbeStreak, ReadinessVerdict]:
    """Take one readiness result into account.

    A busy worker may be too busy to answer: a timeout with requests in flight does not count,
    until one of them is overdue. A refused or broken connection always counts, and an error
    of our own (no free file descriptor) never does.

    Args:
        streak: What earlier results added up to.
        result: Of the probe just made.
        in_flight: Requests the worker is serving now.
        fail_threshold: Consecutive failures until the worker leaves the rotation.
        success_threshold: Consecutive successes until it returns.
        overdue: A request in flight has exceeded its own time limit.

    Returns:
        The new streak, and whether readiness changed.
    """
    unchanged = ReadinessVerdict.UNCHANGED
    if result.outcome is ProbeOutcome.LOCAL_ERROR:
        return streak, unchanged
    if result.outcome is ProbeOutcome.TIMEOUT and in_flight > 0 and not overdue:
        return streak, unchanged
    if result.outcome is ProbeOutcome.OK:
        if streak.ready:
            return replace(streak, failures=0), unchanged
        successes = streak.successes + 1
        if successes < success_threshold:
            return replace(streak, successes=successes), unchanged
        return ProbeStreak(ready=True), ReadinessVerdict.BECAME_READY
    if not streak.ready:
        return replace(streak, successes=0), unchanged
    failures = streak.failures + 1
    if failures < fail_threshold:
        return replace(streak, failures=failures), unchanged
    return ProbeStreak(ready=False), ReadinessVerdict.BECAME_NOT_READY


def judge_pulse(silent_s: float | None, complaint: str) -> ProbeResult:
    """Take the calls of a worker that fetches its jobs for answers to probes.

    Args:
        silent_s: Since its last call; None when there was none.
        complaint: What it says is wrong with it; empty when nothing is.
    """
    if complaint:
        return ProbeResult(outcome=ProbeOutcome.REFUSED, detail=complaint)
    if silent_s is None:
        detail = "it has not asked for a job yet; its image must call runpod.serverless.start"
        return ProbeResult(outcome=ProbeOutcome.REFUSED, detail=detail)
    if silent_s > SILENT_S:
        return ProbeResult(outcome=ProbeOutcome.REFUSED, detail=f"it was not heard for {silent_s:.0f} s")
    return ProbeResult(outcome=ProbeOutcome.OK, status=200)


def describe(result: ProbeResult, *, address: str, port: int, path: str) -> str:
    """Say a probe's result in words for a person.

    Args:
        result: Of the probe.
        address: Of the worker, as it was probed.
        port: As it was probed.
        path: As it was probed.

    Returns:
        A clause without a full stop, such as `connection refused on port 9000`.
    """
    if result.detail:
        return result.detail
    match result.outcome:
        case ProbeOutcome.OK:
            return f"GET {path} answers {result.status}"
        case ProbeOutcome.BAD_STATUS:
            if result.status:
                return f"GET {path} answers {result.status}"
            return f"port {port} answers GET {path} with something that is not HTTP"
        case ProbeOutcome.REFUSED:
            return f"connection refused on port {port}"
        case ProbeOutcome.RESET:
            return f"connection broken on port {port} before GET {path} was answered"
        case ProbeOutcome.TIMEOUT:
            return f"no answer to GET {path} on port {port} in time"
        case ProbeOutcome.LOCAL_ERROR:
            return f"gpud could not probe {address} port {port}"
