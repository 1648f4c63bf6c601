"""Waits for conditions with a deadline, and says what was seen when one did not come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_POLL_S = 0.02


def until(ask: Callable[[], T], *, what: str, within_s: float = 15.0, every_s: float = _POLL_S) -> T:
    """Ask again until the answer is true, and return it.

    Raises:
        AssertionError: It was not within the time; the message has the last answer.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {within_s:g} s: {what}; last seen: {answer!r}")
        time.sleep(every_s)
