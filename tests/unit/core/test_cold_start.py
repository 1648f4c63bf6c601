from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.cold_start import (
    MEANING,
    ColdStart,
    Marks,
    StartPhase,
    phases_of,
    server_timing,
    slowdown_of,
    told,
    usual_total_ns,
)
from gpud.core.ids import EndpointName, Revision, WorkerId

MS = 1_000_000


def a_start(**phases_ms: float) -> ColdStart:
    return ColdStart(
        worker_id=WorkerId("wk_1"),
        endpoint=EndpointName("llm"),
        revision=Revision("r1"),
        at_ms=0,
        phases_ns={StartPhase(name): int(ms * MS) for name, ms in phases_ms.items()},
    )


@st.composite
def some_marks(draw: st.DrawFn) -> Marks:
    """Marks in any order, as clocks and lost events may give them."""
    moments = st.integers(min_value=0, max_value=10_000)
    values = {field.name: draw(moments) for field in fields(Marks)}
    return Marks(**values)


@given(some_marks())
def test_phases_are_never_negative_and_add_up_to_the_whole(marks: Marks) -> None:
    phases = phases_of(marks)
    assert all(ns >= 0 for ns in phases.values())
    assert sum(phases.values()) == max(marks.ready_ns - marks.asked_ns, 0)
    assert tuple(phases) == tuple(p for p in StartPhase if p not in (StartPhase.WAKE, StartPhase.FIRST_BYTE))


def test_each_step_is_told_by_its_own_phase() -> None:
    marks = Marks(
        asked_ns=100,
        pulling_ns=110,
        pulled_ns=140,
        evicting_ns=150,
        reserved_ns=170,
        creating_ns=175,
        started_ns=205,
        listening_ns=260,
        ready_ns=300,
        create_ns=12,
    )
    assert phases_of(marks) == {
        StartPhase.WAIT: 20,
        StartPhase.EVICT: 20,
        StartPhase.PULL: 30,
        StartPhase.RESERVE: 5,
        StartPhase.CREATE: 12,
        StartPhase.ENGINE_START: 18,
        StartPhase.LISTEN: 55,
        StartPhase.READY: 40,
    }


def test_an_eviction_during_a_pull_counts_once() -> None:
    marks = Marks(asked_ns=0, pulling_ns=10, evicting_ns=20, pulled_ns=50, reserved_ns=70, ready_ns=70)
    phases = phases_of(marks)
    assert (phases[StartPhase.WAIT], phases[StartPhase.PULL], phases[StartPhase.EVICT]) == (10, 40, 20)


def test_a_start_that_waited_for_nothing_is_all_engine_and_program() -> None:
    marks = Marks(asked_ns=5, reserved_ns=5, creating_ns=5, started_ns=25, ready_ns=30, create_ns=4)
    phases = phases_of(marks)
    assert {phase: ns for phase, ns in phases.items() if ns} == {
        StartPhase.CREATE: 4,
        StartPhase.ENGINE_START: 16,
        StartPhase.LISTEN: 5,
    }


def test_a_slow_start_names_the_phase_that_grew() -> None:
    usual = [a_start(create=20, engine_start=200, listen=1000 + n) for n in range(20)]
    slow = a_start(create=25, engine_start=210, listen=4000)
    slowdown = slowdown_of(slow, usual)
    assert slowdown is not None
    assert slowdown.culprit is StartPhase.LISTEN
    assert slowdown.usual_ns == usual_total_ns(usual)
    assert told(slowdown) == (
        "Slower than usual (1.23 s): listen took 4.00 s instead of 1.01 s "
        "(the program until it took connections)."
    )


def test_a_phase_that_never_was_there_before_can_be_the_culprit() -> None:
    usual = [a_start(engine_start=200) for _ in range(5)]
    slowdown = slowdown_of(a_start(engine_start=200, pull=30_000), usual)
    assert slowdown is not None
    assert (slowdown.culprit, slowdown.culprit_usual_ns) == (StartPhase.PULL, 0)


def test_few_starts_small_excess_and_wide_spread_prove_nothing() -> None:
    usual = [a_start(engine_start=20) for _ in range(4)]
    assert slowdown_of(a_start(engine_start=900), usual) is None
    usual += usual
    assert slowdown_of(a_start(engine_start=60), usual) is None
    spread = [a_start(engine_start=ms) for ms in (200, 200, 200, 900, 900)]
    assert slowdown_of(a_start(engine_start=500), spread) is None


def test_only_the_last_twenty_are_compared() -> None:
    old = [a_start(engine_start=10) for _ in range(100)]
    recent = [a_start(engine_start=1000) for _ in range(20)]
    assert slowdown_of(a_start(engine_start=1100), old + recent) is None


@given(st.lists(st.integers(min_value=0, max_value=10**12), min_size=5, max_size=40))
def test_a_start_as_quick_as_the_median_is_never_slow(totals: list[int]) -> None:
    earlier = [replace(a_start(), phases_ns={StartPhase.READY: ns}) for ns in totals]
    usual_ns = usual_total_ns(earlier[-20:])
    assert slowdown_of(replace(a_start(), phases_ns={StartPhase.READY: usual_ns}), earlier) is None


def test_the_first_byte_is_no_part_of_the_start() -> None:
    start = a_start(ready=10, first_byte=500)
    assert start.total_ns == 10 * MS
    assert server_timing(start.phases_ns) == "start_ready;dur=10.0"


def test_every_phase_has_its_words() -> None:
    assert set(MEANING) == set(StartPhase)
