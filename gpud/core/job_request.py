"""What may be asked of a job: the bounds of its policy, and the job that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from gpud.core.ids import EndpointName, JobId
from gpud.core.job import Job, JobState, changed
from gpud.errors import InvalidRequest

DAY_MS = 24 * 3_600_000
TTL_MS = (10_000, 7 * DAY_MS)
EXECUTION_MS = (5_000, 7 * DAY_MS)
PRIORITIES = (-10, 10)
ATTEMPTS = (1, 25)
GROUP_KEY_CHARS_MAX = 255
WEBHOOK_CHARS_MAX = 2000
_PADDING_BITS = 2
_LETTERS = "0123456789abcdefghijklmnopqrstuv"
_TEN_BITS = tuple(first + second for first in _LETTERS for second in _LETTERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPolicy:
    """How one job is to be treated.

    Args:
        ttl_ms: No attempt starts later than this after it was accepted.
        execution_timeout_ms: For one attempt.
        deadline_ms: For the whole job from its acceptance; 0 for none.
        priority: -10 to 10, larger first.
        low_priority: Does not count for scaling.
        max_attempts: Of those the job is to blame for.
        group_key: One at a time of each key, in order; empty for none.

    Raises:
        InvalidRequest: A value is out of bounds; `fields` names each.
    """

    ttl_ms: int = DAY_MS
    execution_timeout_ms: int = 600_000
    deadline_ms: int = 0
    priority: int = 0
    low_priority: bool = False
    max_attempts: int = 3
    group_key: str = ""

    def __post_init__(self) -> None:
        faults: dict[str, str] = {}
        for name, value, (least, most) in (
            ("ttl_ms", self.ttl_ms, TTL_MS),
            ("execution_timeout_ms", self.execution_timeout_ms, EXECUTION_MS),
            ("priority", self.priority, PRIORITIES),
            ("max_attempts", self.max_attempts, ATTEMPTS),
        ):
            if not least <= value <= most:
                faults[name] = f"must be {least} to {most}"
        if self.deadline_ms and not TTL_MS[0] <= self.deadline_ms <= 2 * TTL_MS[1]:
            faults["deadline_ms"] = f"must be 0 (none) or {TTL_MS[0]} to {2 * TTL_MS[1]}"
        if len(self.group_key) > GROUP_KEY_CHARS_MAX or not self.group_key.isprintable():
            faults["group_key"] = f"must be at most {GROUP_KEY_CHARS_MAX} printable characters"
        if faults:
            listed = "; ".join(f"{name}: {why}" for name, why in faults.items())
            raise InvalidRequest(f"The job's policy cannot be used: {listed}.", fields=faults)


def job_id(at_ms: int, random_id: str, *, sync: bool) -> JobId:
    """Spell a job's id: its time first, so that rows made together lie together, then chance.

    Args:
        at_ms: On the job timeline.
        random_id: A fresh `job_…` id.
        sync: Its caller waits; RunPod's clients know those by `sync-`.
    """
    # 48 bits, ten at a time, as base32hex spells them: letters that sort as the numbers do.
    bits = at_ms << _PADDING_BITS
    time = "".join([_TEN_BITS[bits >> at & 1023] for at in (40, 30, 20, 10, 0)])
    return JobId(f"{'sync-' if sync else ''}{time}-{random_id.partition('_')[2]}")


_NOTHING_YET = Job(
    seq=0,
    id=JobId(""),
    endpoint=EndpointName(""),
    owner="",
    state=JobState.IN_QUEUE,
    created_at_ms=0,
    available_at_ms=0,
    expires_at_ms=0,
    execution_timeout_ms=0,
    ttl_ms=0,
)


def accepted(
    id_: JobId,
    *,
    endpoint: EndpointName,
    owner: str,
    policy: JobPolicy,
    now_ms: int,
    seq: int = 0,
    sync: bool = False,
    webhook: str = "",
    input_bytes: int = 0,
    path: str = "",
) -> Job:
    """The job as it is accepted; its row gives it its `seq` when that is 0."""
    wait_ms = min(policy.ttl_ms, policy.deadline_ms or policy.ttl_ms)
    return changed(
        _NOTHING_YET,
        seq=seq,
        id=id_,
        endpoint=endpoint,
        owner=owner,
        created_at_ms=now_ms,
        available_at_ms=now_ms,
        expires_at_ms=now_ms + wait_ms,
        execution_timeout_ms=policy.execution_timeout_ms,
        ttl_ms=policy.ttl_ms,
        priority=policy.priority,
        effective_priority=policy.priority,
        low_priority=policy.low_priority,
        group_key=policy.group_key,
        max_attempts=policy.max_attempts,
        deadline_ms=now_ms + policy.deadline_ms if policy.deadline_ms else 0,
        sync=sync,
        webhook=webhook,
        input_bytes=input_bytes,
        path=path,
    )
