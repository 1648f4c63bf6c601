"""How far is an endpoint on its way from one revision to the next, and does it go on or back?

A rollout is a row: its step, and what the step needs to be resumed. `next_rollout` moves it on;
`core.rollout_moves` says which workers are made and which go at each step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from gpud.core.starts import StartRecord
from gpud.core.worker import COUNTED, HOLDS_GPUS, WorkerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName, Revision
    from gpud.core.rollout_policy import RolloutPolicy
    from gpud.core.worker import Worker

START_FAILURES_MAX = 3
ANSWERS_LEAST = 20
"""Answers of each revision below which their error rates say nothing."""
ERROR_RATE_MARGIN = 0.20
_TALLY_MAX = 400
_ENGINE_AWAY_STEP_S = 60.0


class RolloutStep(StrEnum):
    """Where a rollout is; the last three are its ends."""

    PULL = "pull"
    CANARY = "canary"
    PROVE = "prove"
    SHIFT = "shift"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"


ACTIVE = frozenset({RolloutStep.PULL, RolloutStep.CANARY, RolloutStep.PROVE, RolloutStep.SHIFT})
TRYING = frozenset({RolloutStep.CANARY, RolloutStep.PROVE})
"""Steps in which the old revision serves and one worker of the new one is tried."""


class SmokeState(StrEnum):
    """What the smoke request came to."""

    UNTRIED = "untried"
    PASSED = "passed"
    FAILED = "failed"


class RollbackReason(StrEnum):
    """Why a rollout went back."""

    START_FAILURES = "start_failures"
    IMAGE = "image"
    DEADLINE = "deadline"
    SMOKE = "smoke"
    ERROR_RATE = "error_rate"
    ASKED = "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Answers of one revision's workers.

    Args:
        answered: All of them, connections that broke before an answer included.
        failed: Of these, 5xx and broken ones.
    """

    answered: int = 0
    failed: int = 0

    @property
    def error_rate(self) -> float:
        """Failed ones among all; 0 without any."""
        return self.failed / self.answered if self.answered else 0.0

    def plus(self, answered: int, failed: int) -> Tally:
        """Count more; old answers weigh less and less."""
        total = Tally(answered=self.answered + answered, failed=self.failed + failed)
        if total.answered <= _TALLY_MAX:
            return total
        return Tally(answered=total.answered // 2, failed=total.failed // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One endpoint's way from `base` to `target`.

    Args:
        base: Serves until the shift, and again after a rollback.
        target: What was deployed.
        since_s: Loop time at which the step began.
        clock_s: Loop time from which the deadline counts; None while image or GPUs are awaited.
        replaced: Old workers that made room for the first new one.
        starts: Failed starts of the target so far, whatever succeeded between them.
        smoke: What the smoke request came to.
        reason: Why it went back; None otherwise.
        detail: For a person: why it ended, or what went wrong last.
        started_at_ms: Unix wall time.
        changed_at_ms: Unix wall time of the last step.
    """

    endpoint: EndpointName
    base: Revision
    target: Revision
    step: RolloutStep
    since_s: float
    started_at_ms: int
    changed_at_ms: int
    clock_s: float | None = None
    replaced: int = 0
    starts: StartRecord = field(default_factory=StartRecord)
    smoke: SmokeState = SmokeState.UNTRIED
    reason: RollbackReason | None = None
    detail: str = ""

    @property
    def active(self) -> bool:
        """Whether it is still under way."""
        return self.step in ACTIVE

    @property
    def serving(self) -> Revision:
        """The revision that the endpoint's scale decides about."""
        return self.target if self.step in (RolloutStep.SHIFT, RolloutStep.COMPLETED) else self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSeen:
    """A rollout with what its next step depends on, as far as it is known without the workers.

    Args:
        rollout: The row.
        target: The endpoint as deployed.
        image_present: The engine has exactly the target's image.
        old: Answers of the base.
        new: Answers of the target since the rollout began.
    """

    rollout: Rollout
    target: Endpoint
    image_present: bool = False
    old: Tally = field(default_factory=Tally)
    new: Tally = field(default_factory=Tally)

    @property
    def policy(self) -> RolloutPolicy:
        """How careful the change is."""
        return self.target.spec.rollout


def next_rollout(
    seen: RolloutSeen, workers: Sequence[Worker], *, desired: int, engine_up: bool, now_s: float
) -> tuple[Rollout, float | None]:
    """Decide where a rollout is now.

    Args:
        seen: The rollout, under way.
        workers: All of its endpoint that are not GONE.
        desired: How many the scale policy wants.
        engine_up: The container engine answers; nothing is held against a revision while it does not.
        now_s: Loop time.

    Returns:
        The rollout, which is the same object when nothing changed, and the loop time at which the
        answer may be another though nothing happens.
    """
    rollout = _timed(seen.rollout, workers, engine_up=engine_up, now_s=now_s)
    fault = _fault(replace(seen, rollout=rollout), engine_up=engine_up, now_s=now_s)
    if fault is not None:
        reason, detail = fault
        ended = _step(rollout, RolloutStep.ROLLED_BACK, now_s)
        return replace(ended, reason=reason, detail=detail), None
    step, step_at_s = _next_step(seen, workers, desired=desired, now_s=now_s)
    if step is not rollout.step:
        return _step(rollout, step, now_s), None
    deadline_s = None
    if rollout.clock_s is not None and rollout.step is not RolloutStep.PULL and engine_up:
        deadline_s = rollout.clock_s + _limit_s(rollout, seen.policy)
    due = [at_s for at_s in (deadline_s, step_at_s) if at_s is not None]
    return rollout, min(due, default=None)


def _step(rollout: Rollout, step: RolloutStep, now_s: float) -> Rollout:
    clock_s = now_s if step in (RolloutStep.PROVE, RolloutStep.SHIFT) else None
    # Pulls that failed say nothing against the revision's starts.
    starts = StartRecord() if rollout.step is RolloutStep.PULL else rollout.starts
    return replace(rollout, step=step, since_s=now_s, clock_s=clock_s, starts=starts)


def _timed(rollout: Rollout, workers: Sequence[Worker], *, engine_up: bool, now_s: float) -> Rollout:
    """Start, stop or move the deadline's clock, in steps long enough to be worth a row."""
    clock_s = rollout.clock_s
    match rollout.step:
        case RolloutStep.CANARY:
            seated = any(w.revision == rollout.target and w.state in HOLDS_GPUS for w in workers)
            if not seated and not rollout.starts.failures:
                clock_s = None
            elif clock_s is None:
                clock_s = now_s
        case RolloutStep.SHIFT:
            moved_s = max((w.since_s for w in workers), default=now_s)
            if clock_s is None or moved_s > clock_s:
                clock_s = moved_s
        case _:
            pass
    if clock_s is not None and not engine_up and now_s - clock_s >= _ENGINE_AWAY_STEP_S:
        clock_s = now_s
    return rollout if clock_s == rollout.clock_s else replace(rollout, clock_s=clock_s)


def _fault(seen: RolloutSeen, *, engine_up: bool, now_s: float) -> tuple[RollbackReason, str] | None:
    """Why the rollout goes back, if it does."""
    rollout, policy = seen.rollout, seen.policy
    starts = rollout.starts
    if rollout.step is RolloutStep.PULL:
        return (RollbackReason.IMAGE, starts.last_error) if starts.permanent else None
    if starts.permanent or starts.failures >= START_FAILURES_MAX:
        count = f"{starts.failures} starts failed" if starts.failures > 1 else "Its start failed"
        return RollbackReason.START_FAILURES, f"{count}. Last error: {starts.last_error}"
    if rollout.smoke is SmokeState.FAILED:
        return RollbackReason.SMOKE, rollout.detail
    if worse(old=seen.old, new=seen.new):
        detail = (
            f"{seen.new.failed} of its {seen.new.answered} answers were errors, "
            f"{seen.old.failed} of {seen.old.answered} before."
        )
        return RollbackReason.ERROR_RATE, detail
    deadline_s = _limit_s(rollout, policy)
    if engine_up and rollout.clock_s is not None and now_s - rollout.clock_s >= deadline_s:
        error = f" Last error: {starts.last_error}" if starts.last_error else ""
        detail = f"The step {rollout.step} made no progress for {deadline_s:g} s.{error}"
        return RollbackReason.DEADLINE, detail
    return None


def _limit_s(rollout: Rollout, policy: RolloutPolicy) -> float:
    """How long the step may take; the time of proof is its own, and no lack of progress."""
    proof_s = policy.min_healthy_time_s if rollout.step is RolloutStep.PROVE else 0.0
    return policy.progress_deadline_s + proof_s


def worse(*, old: Tally, new: Tally) -> bool:
    """Whether a revision's answers are clearly worse than its predecessor's."""
    if min(old.answered, new.answered) < ANSWERS_LEAST:
        return False
    return new.error_rate > old.error_rate + ERROR_RATE_MARGIN


def _next_step(
    seen: RolloutSeen, workers: Sequence[Worker], *, desired: int, now_s: float
) -> tuple[RolloutStep, float | None]:
    """Which step the world asks for, and when it may be another."""
    rollout, policy = seen.rollout, seen.policy
    step = rollout.step
    new_ready = [w for w in workers if w.revision == rollout.target and w.state is WorkerState.READY]
    match step:
        case RolloutStep.PULL:
            if not seen.image_present:
                return step, None
            return (
                RolloutStep.CANARY if _needs_canary(seen, workers, desired) else RolloutStep.COMPLETED
            ), None
        case RolloutStep.CANARY:
            return (RolloutStep.PROVE if new_ready else step), None
        case RolloutStep.PROVE:
            if not new_ready:
                return RolloutStep.CANARY, None
            if policy.smoke.path and rollout.smoke is not SmokeState.PASSED:
                return step, None
            healthy_at_s = min(w.since_s for w in new_ready) + policy.min_healthy_time_s
            return (RolloutStep.SHIFT, None) if now_s >= healthy_at_s else (step, healthy_at_s)
        case RolloutStep.SHIFT:
            left = [w for w in workers if w.revision != rollout.target and _serves(w)]
            return (step if left else RolloutStep.COMPLETED), None
        case RolloutStep.COMPLETED | RolloutStep.ROLLED_BACK | RolloutStep.SUPERSEDED:
            return step, None
        case _:
            assert_never(step)


def _needs_canary(seen: RolloutSeen, workers: Sequence[Worker], desired: int) -> bool:
    """Nothing is tried for an endpoint that is paused, or that nobody uses and whose user said so."""
    if seen.target.spec.scale.max_workers == 0:
        return False
    return seen.policy.verify or desired > 0 or any(w.state in COUNTED for w in workers)


def _serves(worker: Worker) -> bool:
    """Whether requests may be at it, or come to it."""
    return worker.state in COUNTED or worker.state is WorkerState.DRAINING
