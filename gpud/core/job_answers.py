"""What does a worker's answer to a pushed job mean?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.job import Delivered, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRY_AGAIN = frozenset({408, 409, 425, 429})
_EXCERPT_CHARS = 2000


def delivered_by(status: int, headers: Mapping[str, str], body: bytes) -> Delivered:
    """Read an answer; one that says COMPLETED carries the result in its body.

    Args:
        status: Of the answer.
        headers: Lower-case names. `retry-after` in seconds and `x-gpud-retry: no | after=<s>` are heard.
        body: For the error's text.
    """
    if 200 <= status < 300:
        return Delivered(ending=Ending.COMPLETED)
    may_retry, after_ms = _wish(headers.get("x-gpud-retry", ""))
    if after_ms is None:
        after_ms = _seconds_ms(headers.get("retry-after", ""))
    error = f"The worker answered {status}: {_excerpt(body)}" if body else f"The worker answered {status}."
    if status == 429 or (status == 503 and after_ms is not None):
        return Delivered(ending=Ending.BUSY, error=error, after_ms=after_ms, may_retry=may_retry is not False)
    if 400 <= status < 500 and status not in _TRY_AGAIN:
        return Delivered(
            ending=Ending.FAILED,
            error=error,
            may_retry=may_retry is True,
            after_ms=after_ms,
            reason="refused_by_worker",
        )
    return Delivered(
        ending=Ending.FAILED,
        error=error,
        may_retry=may_retry is not False,
        after_ms=after_ms,
        reason="worker_error",
    )


def _wish(value: str) -> tuple[bool | None, int | None]:
    """Read `X-Gpud-Retry`: whether to try again, if it says so, and after how long."""
    word = value.strip().lower()
    if word == "no":
        return False, None
    if word.startswith("after="):
        after_ms = _seconds_ms(word.removeprefix("after="))
        return (True, after_ms) if after_ms is not None else (None, None)
    return None, None


def _seconds_ms(value: str) -> int | None:
    text = value.strip()
    if not text.isascii() or not text.replace(".", "", 1).isdigit() or len(text) > 12:
        return None
    return int(float(text) * 1000)


def _excerpt(body: bytes) -> str:
    return body[: 4 * _EXCERPT_CHARS].decode(errors="replace")[:_EXCERPT_CHARS].strip()
