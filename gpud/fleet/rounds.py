"""How long the reconciler's rounds take, and when the last one ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.ports.readings import RoundReading

if TYPE_CHECKING:
    from collections.abc import Callable


class Rounds:
    """Takes the time of each round.

    Args:
        now_s: The loop's clock.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began_s = self.ended_s = now_s()
        self._count = 0
        self._decided_s = self._whole_s = self._longest_s = 0.0

    def begin(self) -> float:
        """A round begins; returns its time."""
        self._began_s = self._now_s()
        return self._began_s

    def decided(self) -> None:
        """Everything is decided and published; what is left waits for the disk."""
        self._decided_s += self._now_s() - self._began_s

    def end(self) -> None:
        """The round is over."""
        self.ended_s = self._now_s()
        took_s = self.ended_s - self._began_s
        self._count += 1
        self._whole_s += took_s
        self._longest_s = max(self._longest_s, took_s)

    def reading(self) -> RoundReading:
        """For a scrape."""
        return RoundReading(
            rounds=self._count,
            decided_s=self._decided_s,
            whole_s=self._whole_s,
            longest_s=self._longest_s,
        )
