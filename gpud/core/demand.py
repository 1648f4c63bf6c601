"""The largest load of the last n seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadWindow:
    """Loads worth remembering: each entry is larger than every later one.

    An entry's end is always reckoned as its moment plus the span, never as now less the span: the
    two differ in the last digit, and whoever asks again at the end must find it there.

    Args:
        entries: (loop time, load), oldest and largest first.
    """

    entries: tuple[tuple[float, int], ...] = ()

    def observed(self, load: int, *, at_s: float, span_s: float) -> LoadWindow:
        """Add one observation and forget what is older than `span_s`.

        Args:
            load: Requests waiting plus in flight.
            at_s: Loop time; never before the newest entry.
            span_s: How long an observation matters.
        """
        kept = [(then_s, past) for then_s, past in self.entries if past > load and then_s + span_s > at_s]
        return LoadWindow((*kept, (at_s, load)))

    @property
    def newest_s(self) -> float:
        """Loop time of the newest entry; minus infinity when there is none."""
        return self.entries[-1][0] if self.entries else float("-inf")

    def peak(self, *, now_s: float, span_s: float) -> int:
        """Largest load observed in the last `span_s` seconds; the newest one always counts."""
        if not self.entries:
            return 0
        newest = self.entries[-1][1]
        return max((load for at_s, load in self.entries if at_s + span_s > now_s), default=newest)

    def falls_at_s(self, *, now_s: float, span_s: float) -> float | None:
        """When the peak will fall if no load comes; None when it has nowhere to fall."""
        live = [at_s for at_s, _ in self.entries[:-1] if at_s + span_s > now_s]
        return live[0] + span_s if live else None
