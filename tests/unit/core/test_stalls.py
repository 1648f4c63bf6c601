from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import HealthCheck
from gpud.core.reconcile import plan
from gpud.core.stalls import Activity, StartProgress, look_every_s, progressed, stalled
from gpud.core.worker import Cause, WorkerState
from tests.unit.core.making import endpoint, events, seen, worker, world

QUIET = Activity(log_mark="a", cpu_s=1.0, memory_bytes=100 << 20, phase="refused")
MIB = 1 << 20


def _after(*looks: Activity, every_s: float = 10.0) -> StartProgress:
    progress = None
    for number, look in enumerate((QUIET, *looks), 1):
        progress = progressed(progress, look, now_s=number * every_s)
    assert progress is not None
    return progress


@pytest.mark.parametrize(
    "changed",
    [
        replace(QUIET, log_mark="b"),
        replace(QUIET, phase="503"),
        replace(QUIET, cpu_s=1.1),
        replace(QUIET, memory_bytes=101 * MIB),
        replace(QUIET, memory_bytes=99 * MIB),
        replace(QUIET, cpu_s=None),
        replace(QUIET, memory_bytes=None),
    ],
    ids=["log", "probe", "cpu", "more memory", "less memory", "no cpu known", "no memory known"],
)
def test_each_sign_of_life_alone_is_progress(changed: Activity) -> None:
    assert _after(QUIET, changed).still_s == 0.0


def test_nothing_new_is_no_progress() -> None:
    assert _after(QUIET, QUIET, QUIET).still_s == 30.0


def test_a_process_that_only_answers_probes_makes_no_progress() -> None:
    looks = [
        replace(QUIET, cpu_s=1.0 + 0.02 * number, memory_bytes=QUIET.memory_bytes) for number in range(9)
    ]
    assert _after(*looks).still_s == 90.0


def test_memory_that_grows_slowly_is_progress_in_the_end() -> None:
    looks = [replace(QUIET, memory_bytes=(100 << 20) + number * 300_000) for number in range(1, 5)]
    assert _after(*looks).moved_s == 50.0, "1.2 MiB since the first look"


@given(st.lists(st.integers(0, 3), max_size=20), st.sampled_from([1.0, 10.0]))
def test_the_last_progress_is_never_after_the_last_look(steps: list[int], every_s: float) -> None:
    looks = [replace(QUIET, log_mark=str(step)) for step in steps]
    progress = _after(*looks, every_s=every_s)
    assert 0 <= progress.still_s <= len(looks) * every_s


def test_a_start_is_looked_at_rarely_and_a_few_times_within_its_limit() -> None:
    assert [look_every_s(limit_s) for limit_s in (1.0, 12.0, 60.0, 300.0, 86_400.0)] == [
        0.5,
        2.0,
        10.0,
        10.0,
        10.0,
    ]


def test_without_a_look_after_the_limit_nothing_is_concluded() -> None:
    assert not stalled(None, 30.0)
    assert not stalled(StartProgress(seen=QUIET, looked_s=29.0, moved_s=0.0), 30.0)
    assert stalled(StartProgress(seen=QUIET, looked_s=30.0, moved_s=0.0), 30.0)
    assert not stalled(StartProgress(seen=QUIET, looked_s=9000.0, moved_s=0.0), 0.0), "no limit"


@pytest.mark.parametrize(
    ("still_s", "age_s", "cause", "limit"),
    [
        (300.0, 310.0, Cause.START_STALLED, "health.stall_timeout_s"),
        (299.0, 600.0, Cause.START_TIMEOUT, "health.start_timeout_s"),
        (300.0, 700.0, Cause.START_STALLED, "health.stall_timeout_s"),
    ],
)
def test_the_message_says_which_limit_ended_a_start(
    still_s: float, age_s: float, cause: Cause, limit: str
) -> None:
    each = seen(endpoint(health=HealthCheck(path="/up")))
    starting = worker(
        0,
        WorkerState.STARTING,
        since_s=1000.0 - age_s,
        revision=each.endpoint.revision,
        detail="GET /up: 503",
    )
    progress = StartProgress(seen=QUIET, looked_s=1000.0, moved_s=1000.0 - still_s)
    box = world([replace(each, load=1, waiting=1)], [starting], progress={starting.id: progress})
    ends = [event for event in events(plan(box)) if event.cause is cause]
    assert len(ends) == 1
    assert limit in ends[0].detail
    assert "GET /up: 503" in ends[0].detail
