"""How long do starts take in a replay, from which rung, and what of that is assumed and not on record?"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from gpud.core.standby import Rung, StandbyMode
from gpud.core.wake_times import UNMEASURED
from gpud.core.whatif import StartSample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpud.core.endpoint import EndpointSpec

NOTHING = ""
"""Where a cold start begins."""

_COLD_START_DEFAULT_S = 60.0
_UNBILLED = ("reserve_ms", "create_ms", "start_ms")


def samples_of(
    ready: Iterable[Mapping[str, Any]], woken: Iterable[Mapping[str, Any]] = ()
) -> tuple[StartSample, ...]:
    """Read starts and ways back from what was recorded of them.

    Args:
        ready: Facts of workers that became ready, oldest first.
        woken: Facts of workers that came back from a rung, oldest first.
    """
    starts = [
        StartSample(
            setup_s=sum(facts.get(name, 0.0) for name in _UNBILLED) / 1000,
            start_s=facts["ready_ms"] / 1000,
            rung=facts.get("standby", NOTHING),
        )
        for facts in ready
        if "ready_ms" in facts
    ]
    starts += [
        StartSample(setup_s=0.0, start_s=(facts["wake_ms"] + facts["ready_ms"]) / 1000, rung=facts["rung"])
        for facts in woken
        if {"rung", "wake_ms", "ready_ms"} <= facts.keys()
    ]
    return tuple(starts)


def ways_up(samples: Sequence[StartSample]) -> Mapping[str, tuple[StartSample, ...]]:
    """Starts by where they begin; where none is on record, as they can be expected to be."""
    found: dict[str, tuple[StartSample, ...]] = {
        rung: tuple(sample for sample in samples if sample.rung == rung) for rung in (NOTHING, *Rung)
    }
    created_s, parked_s = (UNMEASURED.usual_s(rung) for rung in (Rung.CREATED, Rung.PARKED))
    if not found[NOTHING]:
        stood_by = found[Rung.PARKED] or found[Rung.CREATED]
        found[NOTHING] = tuple(
            StartSample(setup_s=sample.setup_s + created_s, start_s=sample.start_s) for sample in stood_by
        ) or (StartSample(setup_s=0.0, start_s=_COLD_START_DEFAULT_S),)
    cold = found[NOTHING]
    if not found[Rung.CREATED]:
        found[Rung.CREATED] = tuple(
            StartSample(setup_s=min(sample.setup_s, created_s), start_s=sample.start_s) for sample in cold
        )
    if not found[Rung.PARKED]:
        found[Rung.PARKED] = tuple(
            StartSample(setup_s=min(sample.setup_s, parked_s), start_s=sample.start_s) for sample in cold
        )
    for rung in (Rung.PAUSED, Rung.SLEEPING):
        if not found[rung]:
            found[rung] = (StartSample(setup_s=0.0, start_s=UNMEASURED.usual_s(rung)),)
    return found


def assumptions(samples: Sequence[StartSample], spec: EndpointSpec) -> tuple[str, ...]:
    """Say which starts a replay of a spec makes up, and how long they take there."""
    ways, known = ways_up(samples), {sample.rung for sample in samples}
    used = [NOTHING]
    if spec.standby.mode is not StandbyMode.NONE:
        used.append(Rung(spec.standby.mode.value))
    if spec.pause.after_idle_s:
        used.append(Rung.PAUSED)
    if spec.sleep.on:
        used.append(Rung.SLEEPING)
    return tuple(
        f"No {_NAMES.get(rung, f'way back from {rung}')} is on record: "
        f"{median(each.setup_s + each.start_s for each in ways[rung]):.3g} s are assumed."
        for rung in used
        if rung not in known
    )


_NAMES = {
    NOTHING: "cold start",
    Rung.CREATED: "start of a created container",
    Rung.PARKED: "start of a parked container",
}
