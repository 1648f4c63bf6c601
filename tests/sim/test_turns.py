"""More endpoints than GPUs, in virtual time: who gets a card when, and what is said about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.endpoint import PolicyName, ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.worker import WorkerState
from tests.sim.clients import Outcome
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from tests.sim.clients import Request


def _busy(**facts: object) -> ScalePolicy:
    known: dict[str, object] = {"max_workers": 1, "concurrency": 1, "idle_timeout_s": 600.0, **facts}
    return ScalePolicy(**known)  # type: ignore[arg-type]


def _backlog(sim: Sim, name: str, requests: int) -> list[Request]:
    return [sim.request(name, takes_s=10) for _ in range(requests)]


def test_two_busy_endpoints_take_turns_on_one_gpu_and_lose_no_request(sim: Sim) -> None:
    sim.runtime.boot_s = 5
    for name in ("first", "second"):
        sim.deploy(name, _busy(quantum_s=60.0))
    first = _backlog(sim, "first", 30)
    sim.run(for_s=20)
    second = sim.request("second", takes_s=1)
    sim.run(for_s=80)
    assert second.outcome is Outcome.ANSWERED, "the busy one had its turn and gave way"
    assert second.waited_s <= 60 + 10 + 5 + 5
    sim.run(for_s=700)
    assert {request.outcome for request in first} == {Outcome.ANSWERED}


def test_an_idle_worker_gives_way_long_before_its_idle_timeout(sim: Sim) -> None:
    sim.runtime.boot_s = 5
    sim.deploy("idle", _busy())
    sim.deploy("other", _busy())
    warm = sim.request("idle", takes_s=1)
    sim.run(for_s=40)
    assert warm.outcome is Outcome.ANSWERED
    asked = sim.request("other", takes_s=1)
    sim.run(for_s=60)
    assert asked.outcome is Outcome.ANSWERED
    assert asked.waited_s < 40
    assert not sim.workers("idle"), "what gave way is not started again for warmth"


def test_an_idle_worker_that_is_exclusive_or_guaranteed_gives_way_to_nobody(sim: Sim) -> None:
    for name, scale in (("own", _busy(exclusive=True)), ("sure", _busy(min_workers=1))):
        sim.deploy(name, scale)
        if not scale.min_workers:
            sim.request(name, takes_s=1)
        sim.run(for_s=60)
        sim.deploy("other", _busy())
        asked = sim.request("other", takes_s=1, patience_s=100)
        sim.run(for_s=120)
        assert asked.outcome is not Outcome.ANSWERED
        [worker] = sim.workers(name)
        assert worker.state is WorkerState.READY
        sim.delete("other")
        sim.delete(name)
        sim.run(for_s=60)


def test_a_higher_priority_gets_the_gpu_from_a_busy_lower_one(sim: Sim) -> None:
    sim.runtime.boot_s = 5
    sim.deploy("low", _busy())
    sim.deploy("high", _busy(priority=5))
    low = _backlog(sim, "low", 5)
    sim.run(for_s=12)
    high = sim.request("high", takes_s=1)
    sim.run(for_s=40)
    assert high.outcome is Outcome.ANSWERED
    assert high.waited_s <= 10 + 5 + 3
    sim.run(for_s=200)
    assert {request.outcome for request in low} == {Outcome.ANSWERED}


def test_a_worker_of_two_gpus_gets_them_while_small_ones_keep_asking() -> None:
    with Sim(gpus=2) as sim:
        sim.runtime.boot_s = 5
        for name in ("small-a", "small-b"):
            sim.deploy(name, _busy(quantum_s=60.0))
        sim.deploy("big", _busy(quantum_s=60.0), gpus=2)
        small = [request for name in ("small-a", "small-b") for request in _backlog(sim, name, 30)]
        sim.run(for_s=20)
        big = sim.request("big", takes_s=1)
        sim.run(for_s=120)
        assert big.outcome is Outcome.ANSWERED
        sim.run(for_s=900)
        assert {request.outcome for request in small} == {Outcome.ANSWERED}


def test_whoever_waits_for_a_gpu_is_told_who_holds_it_and_for_how_long(sim: Sim) -> None:
    sim.deploy("first", _busy(quantum_s=60.0))
    sim.deploy("second", _busy())
    _backlog(sim, "first", 30)
    sim.run(for_s=20)
    sim.request("second", takes_s=1)
    sim.run(for_s=5)
    wait = sim.up.fleet.state.waits[EndpointName("second")][0]
    assert (wait.reason, wait.facts["held_by"]) == ("waiting_for_gpu", ["first"])
    assert 0 < float(str(wait.facts["until_in_s"])) <= 60


def test_starts_are_made_two_at_a_time_for_an_endpoint_and_four_for_the_box() -> None:
    with Sim(gpus=8) as sim:
        sim.runtime.boot_s = 30
        for name in ("one", "two", "three"):
            sim.deploy(name, ScalePolicy(max_workers=4, concurrency=1, policy=PolicyName.REQUEST_COUNT))
        for name in ("one", "two", "three"):
            _backlog(sim, name, 4)
        sim.run(for_s=10)
        starting = [w.endpoint for w in sim.workers() if w.state is WorkerState.STARTING]
        assert len(starting) == 4
        assert max(map(starting.count, starting)) == 2
        reasons = {wait.reason for waits in sim.up.fleet.state.waits.values() for wait in waits}
        assert "start_limit" in reasons
