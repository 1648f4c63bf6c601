"""When may a failing revision be tried again, and when are its callers told?"""

from __future__ import annotations

from dataclasses import dataclass

_RESET_AFTER_READY_S = 600.0
"""A worker that was READY this long clears the record, so an old failure is not held against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffPolicy:
    """How fast retries slow down.

    Args:
        base_s: Wait after the first failure; doubles with each further one.
        max_s: Longest wait.
        circuit_failures: Consecutive failures after which callers are refused with the error.
    """

    base_s: float = 1.0
    max_s: float = 300.0
    circuit_failures: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecord:
    """What a revision's last starts came to.

    Args:
        failures: Consecutive ones.
        last_error: Of the last failure, for people; empty after a success.
        open: Callers are refused until `next_try_s`.
        next_try_s: Loop time before which no start is made.
        permanent: The last failure was of a kind that trying again cannot help.
    """

    failures: int = 0
    last_error: str = ""
    open: bool = False
    next_try_s: float = 0.0
    permanent: bool = False

    def may_start(self, *, now_s: float) -> bool:
        """Whether a start may be made now."""
        return now_s >= self.next_try_s

    def refuses(self, *, now_s: float) -> bool:
        """Whether callers are refused now; at `next_try_s` one start is tried for them again."""
        return self.open and now_s < self.next_try_s


def after_failure(
    record: StartRecord, policy: BackoffPolicy, *, error: str, permanent: bool, now_s: float, jitter: float
) -> StartRecord:
    """Count one failed start.

    Args:
        record: Before it.
        policy: How fast retries slow down.
        error: For people: what failed, why, what to do.
        permanent: The same again cannot help; callers are refused at once.
        now_s: Loop time.
        jitter: In [0, 1); spreads the wait by a fifth either way.
    """
    failures = record.failures + 1
    wait_s = min(policy.base_s * 2.0 ** min(failures - 1, 30), policy.max_s) * (0.8 + 0.4 * jitter)
    return StartRecord(
        failures=failures,
        last_error=error,
        open=permanent or failures >= policy.circuit_failures,
        next_try_s=now_s + wait_s,
        permanent=permanent,
    )


def after_ready() -> StartRecord:
    """Forget failures: a worker became READY."""
    return StartRecord()


def is_start_failure(*, ready_s: float | None, now_s: float) -> bool:
    """Whether an end counts against the start record: it never was READY, or not for long."""
    return ready_s is None or now_s - ready_s < _RESET_AFTER_READY_S
