"""Sees that a job handed to somebody who has left meanwhile is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.job import Job


class Asker:
    """Whoever asked for a job; what they were to get is given back when they leave.

    Args:
        give_back: Takes it.
    """

    __slots__ = ("_give_back", "_job", "_left")

    def __init__(self, give_back: Callable[[Job], None]) -> None:
        self._give_back = give_back
        self._job: Job | None = None
        self._left = False

    def gets(self, job: Job) -> None:
        """A job was handed out to them."""
        self._job = job
        if self._left:
            self._give_back(job)

    def leave(self) -> None:
        """They are gone."""
        self._left = True
        if self._job is not None:
            self._give_back(self._job)
