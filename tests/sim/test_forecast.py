"""What a dry run tells is what a deploy then does, and it does nothing itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import EndpointSpec, GpuNeeds, ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.standby import StandbyMode, StandbyPolicy
from gpud.errors import Conflict, ImageNotFound, InvalidSpec
from tests.sim.clients import Outcome
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.core.forecast import Forecast

ONE = ScalePolicy(max_workers=1, concurrency=1, idle_timeout_s=600.0)


@pytest.fixture
def pair() -> Iterator[Sim]:
    """A box with two GPUs."""
    with Sim(3, gpus=2) as sim:
        sim.restart()
        yield sim


def _spec(
    sim: Sim, name: str, *, gpus: int = 1, slice_mib: int = 0, scale: ScalePolicy = ONE
) -> EndpointSpec:
    image = f"{name}:1"
    sim.images.build(image)
    return sim.spec(name, scale, gpus=gpus, image=image, slice_mib=slice_mib)


def _forecast(sim: Sim, spec: EndpointSpec) -> Forecast:
    return sim.do(sim.up.fleet.control.forecast(spec))


def _deploy(sim: Sim, spec: EndpointSpec) -> None:
    sim.do(sim.up.fleet.control.deploy(spec))


@pytest.mark.parametrize(("gpus", "slice_mib"), [(1, 0), (2, 0), (1, 9_000), (0, 0)])
def test_what_would_be_placed_where_is_where_it_then_is(pair: Sim, gpus: int, slice_mib: int) -> None:
    sim = pair
    sim.runtime.boot_s = 5
    spec = _spec(sim, "llm", gpus=gpus, slice_mib=slice_mib)
    found = _forecast(sim, spec)
    assert (found.change, found.workers, found.present, found.leavers, found.wait) == (
        "create",
        1,
        0,
        (),
        None,
    )
    assert (found.image_present, found.gpu_wait_s, found.cold_start_measured) == (True, 0.0, False)
    _deploy(sim, spec)
    assert sim.request("llm", takes_s=1).outcome is None
    sim.run(for_s=20)
    (worker,) = sim.workers("llm")
    assert found.placements == (worker.gpu_uuids,)
    again = _forecast(sim, spec)
    assert (again.change, again.present, again.placements, again.first_ready_s) == ("none", 1, (), 0.0)
    rescaled = replace(spec, scale=replace(ONE, priority=3))
    assert _forecast(sim, rescaled).change == "rescale"
    assert _forecast(sim, replace(spec, env=(("A", "1"),))).change == "restart"


def test_who_would_be_evicted_is_who_then_goes(sim: Sim) -> None:
    gpu_count = len(sim.up.fleet.state.gpus)
    for number in range(gpu_count):
        _deploy(sim, _spec(sim, f"held{number}"))
        sim.request(f"held{number}", takes_s=1)
        sim.run(for_s=10)
    sim.run(for_s=60)
    spec = _spec(sim, "newcomer")
    found = _forecast(sim, spec)
    (leaver,) = found.leavers
    assert (found.placements, leaver.in_s, leaver.busy) == ((), 0.0, False)
    assert found.wait is not None
    assert found.wait.facts["held_by"] == [leaver.endpoint]
    _deploy(sim, spec)
    asked = sim.request("newcomer", takes_s=1)
    sim.run(for_s=30)
    assert asked.outcome is Outcome.ANSWERED
    assert leaver.worker_id not in {worker.id for worker in sim.workers()}
    assert len(sim.workers()) == gpu_count


def test_a_busy_equal_is_told_with_the_end_of_its_turn(sim: Sim) -> None:
    gpu_count = len(sim.up.fleet.state.gpus)
    spec = _spec(sim, "busy", gpus=gpu_count, scale=replace(ONE, quantum_s=100.0))
    _deploy(sim, spec)
    sim.request("busy", takes_s=500)
    sim.run(for_s=30)
    found = _forecast(sim, _spec(sim, "newcomer"))
    (leaver,) = found.leavers
    assert leaver.busy
    assert 50.0 < leaver.in_s <= 100.0
    assert found.first_ready_s == leaver.in_s + found.cold_start_s
    outranking = _forecast(sim, _spec(sim, "vip", scale=replace(ONE, priority=9)))
    assert [each.in_s for each in outranking.leavers] == [0.0]


def test_nothing_is_written_pulled_or_started(sim: Sim) -> None:
    sim.images.push("far:1")
    sim.run(for_s=5)
    rows = sim.box.database.execute("SELECT count(*) FROM event").fetchone()[0]
    found = _forecast(sim, sim.spec("far", ONE, gpus=1, image="far:1"))
    sim.run(for_s=20)
    assert not found.image_present
    assert not sim.workers()
    assert not sim.up.fleet.state.endpoints
    assert EndpointName("far") not in sim.up.fleet.state.memory
    assert sim.box.database.execute("SELECT count(*) FROM event").fetchone()[0] == rows
    assert not sim.do(sim.images.list_images()), "nothing was pulled"


def test_what_a_deploy_would_refuse_is_refused(sim: Sim) -> None:
    gpu_count = len(sim.up.fleet.state.gpus)
    greedy = _spec(sim, "greedy", gpus=gpu_count + 1)
    sure = _spec(sim, "sure", gpus=gpu_count, scale=replace(ONE, min_workers=1))
    _deploy(sim, sure)
    surer = _spec(sim, "surer", scale=replace(ONE, min_workers=1))
    taken = replace(_spec(sim, "other"), aliases=("sure",))
    lost = sim.spec("lost", ONE, gpus=1, image="nowhere:1")
    wide = replace(greedy, gpus=GpuNeeds(memory_mib=24_100))  # with the headroom it exceeds a GPU
    parked = replace(_spec(sim, "parked", slice_mib=1_000), standby=StandbyPolicy(mode=StandbyMode.PARKED))
    for spec, error in (
        (parked, InvalidSpec),
        (greedy, InvalidSpec),
        (surer, Conflict),
        (taken, Conflict),
        (lost, ImageNotFound),
        (wide, InvalidSpec),
    ):
        with pytest.raises(error) as forecast:
            _forecast(sim, spec)
        with pytest.raises(error) as deploy:
            _deploy(sim, spec)
        assert str(forecast.value) == str(deploy.value)
