from __future__ import annotations

import pytest

from gpud.core.pacing import ScaleReason
from gpud.core.wanted import ROLLOUT, UNKNOWN, Wanted, told


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Wanted(why="concurrency", waiting=1), "1 request waited. Rule: concurrency."),
        (
            Wanted(why="queue_delay", waiting=5, jobs=3, in_flight=1),
            "2 requests and 3 jobs waited, 1 was under way. Rule: queue_delay.",
        ),
        (Wanted(why="panic", in_flight=9), "9 were under way. Its load had jumped within seconds."),
        (Wanted(why="concurrency"), "It was called moments before. Rule: concurrency."),
        (Wanted(why="min_workers", waiting=4), "scale.min_workers keeps so many."),
        (UNKNOWN, ""),
    ],
)
def test_what_woke_a_worker_is_told_in_words(wanted: Wanted, text: str) -> None:
    assert told(wanted) == text


@pytest.mark.parametrize("why", [*ScaleReason, ROLLOUT])
def test_whatever_makes_a_worker_has_words(why: str) -> None:
    makes_none = {"idle", "paused", "circuit_open", "budget_spent", "no_data"}
    assert told(Wanted(why=why)).endswith(".") or why in makes_none
