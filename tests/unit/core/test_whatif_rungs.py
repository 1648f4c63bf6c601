"""Which starts a replay knows, and which it makes up and says so."""

from __future__ import annotations

from typing import Any

import pytest

from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName
from gpud.core.standby import Rung, StandbyMode, StandbyPolicy
from gpud.core.step_policy import PausePolicy, SleepPolicy, SleepPreset
from gpud.core.whatif import StartSample
from gpud.core.whatif_rungs import NOTHING, assumptions, samples_of, ways_up

COLD = StartSample(setup_s=0.6, start_s=4.0)
PARKED = StartSample(setup_s=0.01, start_s=4.0, rung=Rung.PARKED)
ASLEEP = StartSample(setup_s=0.0, start_s=1.5, rung=Rung.SLEEPING)


def spec(**facts: Any) -> EndpointSpec:
    return EndpointSpec(name=EndpointName("llm"), image="a/b:1", **facts)


def test_starts_are_read_from_what_was_recorded() -> None:
    ready: list[dict[str, Any]] = [
        {"image_ms": 9e9, "reserve_ms": 100.0, "create_ms": 200.0, "start_ms": 300.0, "ready_ms": 4000.0},
        {"start_ms": 10.0, "ready_ms": 4000.0, "standby": "parked"},
        {"detail": "adopted"},
    ]
    woken: list[dict[str, Any]] = [
        {"rung": "sleeping", "wait_ms": 9e9, "wake_ms": 1400.0, "ready_ms": 100.0},
        {},
    ]
    assert samples_of(ready, woken) == (COLD, PARKED, ASLEEP)


def test_what_is_on_record_is_taken_and_what_is_not_follows_from_the_program_s_own_start() -> None:
    ways = ways_up((COLD, ASLEEP))
    assert (ways[NOTHING], ways[Rung.SLEEPING]) == ((COLD,), (ASLEEP,))
    assert ways[Rung.CREATED] == (StartSample(setup_s=0.16, start_s=4.0),)
    assert ways[Rung.PARKED] == (StartSample(setup_s=0.002, start_s=4.0),)
    assert ways[Rung.PAUSED] == (StartSample(setup_s=0.0, start_s=0.001),)
    assert ways_up((PARKED,))[NOTHING] == (StartSample(setup_s=0.17, start_s=4.0),)
    assert ways_up(())[NOTHING] == (StartSample(setup_s=0.0, start_s=60.0),)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, ()),
        ({"standby": StandbyPolicy(mode=StandbyMode.PARKED)}, ("parked container", "4 s")),
        ({"pause": PausePolicy(after_idle_s=1)}, ("from paused", "0.001 s")),
        ({"sleep": SleepPolicy(preset=SleepPreset.VLLM)}, ("from sleeping", "2 s")),
    ],
)
def test_what_is_assumed_is_told_with_its_time(facts: dict[str, Any], told: tuple[str, ...]) -> None:
    said = assumptions((COLD,), spec(**facts))
    assert len(said) == bool(told)
    assert all(word in said[0] for word in told)
    assert assumptions((COLD, PARKED, ASLEEP), spec(sleep=SleepPolicy(preset=SleepPreset.VLLM))) == ()


def test_an_endpoint_without_any_record_is_told_that_a_minute_is_assumed() -> None:
    assert assumptions((), spec()) == ("No cold start is on record: 60 s are assumed.",)
