from __future__ import annotations

from gpud.fleet.rounds import Rounds
from gpud.ports.readings import RoundReading


def test_rounds_are_timed_with_and_without_the_disk() -> None:
    now_s = [10.0]
    rounds = Rounds(lambda: now_s[0])
    assert rounds.ended_s == 10.0
    for decides_s, writes_s in ((0.25, 1.0), (0.5, 0.25)):
        now_s[0] += 5.0
        assert rounds.begin() == now_s[0]
        now_s[0] += decides_s
        rounds.decided()
        now_s[0] += writes_s
        rounds.end()
    assert rounds.reading() == RoundReading(rounds=2, decided_s=0.75, whole_s=2.0, longest_s=1.25)
    assert rounds.ended_s == now_s[0]
