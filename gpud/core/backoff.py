"""How long does a job wait before it is tried again?"""

from __future__ import annotations

BASE_MS = 2_000
CAP_MS = 300_000
_INTERRUPTED_MS = 250


def retry_delay_ms(counted: bool, attempt: int, *, fraction: float, asked_ms: int | None = None) -> int:
    """Wait in milliseconds after a delivery that did not complete.

    Args:
        counted: The job is to blame; it waits twice as long each time. Otherwise it only waits long
            enough that a worker that takes nothing is not asked again and again.
        attempt: Attempts used.
        fraction: In [0, 1): spreads jobs that failed together.
        asked_ms: The worker's own wish; taken, up to the cap.
    """
    if asked_ms is not None:
        return min(max(0, asked_ms), CAP_MS)
    spread = 0.5 + fraction / 2
    if not counted:
        return int(_INTERRUPTED_MS * spread)
    return int(min(BASE_MS << max(0, min(attempt - 1, 20)), CAP_MS) * spread)
