"""A worker dies on its rung, while it is woken, or right after: its requests are answered by another start.

Events of its end are lost, so that whoever meets it finds out by themselves. The real engine is asked the
same where it could differ: `tests/e2e/test_standby.py` and `tests/e2e/test_steps.py`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.probing import ProbeOutcome
from gpud.core.standby import Rung, StandbyMode, StandbyPolicy, StandbyState
from gpud.core.step_policy import PausePolicy, SleepPolicy, SleepPreset
from gpud.core.worker import WorkerState
from tests.sim.clients import Outcome
from tests.sim.final import check_books, check_calm
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from gpud.core.probing import ProbeResult

_ONE = ScalePolicy(max_workers=1, concurrency=20, idle_timeout_s=3600)
_DOWN = {Rung.PAUSED: WorkerState.PAUSED, Rung.SLEEPING: WorkerState.SLEEPING}
_POLICIES: dict[Rung, dict[str, Any]] = {
    Rung.CREATED: {"standby": StandbyPolicy(mode=StandbyMode.CREATED)},
    Rung.PARKED: {"standby": StandbyPolicy(mode=StandbyMode.PARKED)},
    Rung.PAUSED: {"pause": PausePolicy(after_idle_s=45)},
    Rung.SLEEPING: {"sleep": SleepPolicy(preset=SleepPreset.VLLM, after_idle_s=45, timeout_s=20)},
}


class Moment(Enum):
    """When it dies."""

    ON_ITS_RUNG = "on its rung"
    WOKEN = "while it is woken"
    AFTER = "right after it said that it is ready"


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())
@pytest.mark.parametrize("rung", _POLICIES)
def test_twenty_requests_are_answered_though_the_worker_woken_for_them_dies(
    rung: Rung, moment: Moment
) -> None:
    with Sim(21) as sim:
        sim.runtime.boot_s, sim.runtime.start_s = 8, 0.5  # longer than a request waits to be moved on
        sim.deploy("echo", _ONE, **_POLICIES[rung])
        worker = _on_its_rung(sim, rung)
        sim.runtime.event_loss = 1.0
        died_ns = _dies(sim, worker, rung, moment)
        requests = [sim.request("echo", takes_s=0.5) for _ in range(20)]
        sim.run(for_s=40)
        assert [request.outcome for request in requests] == [Outcome.ANSWERED] * 20
        assert died_ns, "it died as it should"
        (alive,) = sim.workers("echo")
        served = sim.box.lifetimes[-1]
        assert {each for request in requests for each in request.served_by} == {served.worker_id}
        assert (served.ended_ns, served.worker_id) == (None, alive.id)
        assert served.started_ns >= died_ns[0]
        leases = sim.box.database.execute("SELECT * FROM gpu_lease WHERE released_boot_ns IS NULL").fetchall()
        assert [row["worker_id"] for row in leases] == [alive.id]
        if moment is Moment.ON_ITS_RUNG:
            assert not sim.up.fleet.state.recall(EndpointName("echo")).starts.failures, "it served before"
        check_books(sim)
        sim.delete("echo")
        sim.run(for_s=120)
        check_calm(sim)


def _on_its_rung(sim: Sim, rung: Rung) -> WorkerId:
    state = sim.up.fleet.state
    if rung in _DOWN:
        sim.request("echo", takes_s=0.1)
        sim.run_until(lambda: any(w.state is _DOWN[rung] for w in sim.workers("echo")), within_s=120)
        return sim.workers("echo")[0].id

    def stands_by() -> bool:
        return any(s.state is StandbyState.READY and s.rung is rung for s in state.standbys.values())

    sim.run_until(stands_by, within_s=60)
    return next(iter(state.standbys))


def _dies(sim: Sim, worker: WorkerId, rung: Rung, moment: Moment) -> list[int]:
    """Have a worker die at a moment, once; returns where that is written down."""
    died_ns: list[int] = []

    def die() -> None:
        if not died_ns:
            died_ns.append(sim.box.clock.boot_ns())
            sim.runtime.crash(worker, exit_code=137)
            if rung is Rung.CREATED and moment is not Moment.AFTER:
                sim.runtime.vanish(worker)  # it has no process that could end

    if moment is Moment.ON_ITS_RUNG:
        sim.ask(die)
    elif moment is Moment.WOKEN:
        rungs: tuple[Any, ...] = (*sim.box.tiers, *sim.box.steps)
        (its,) = (each for each in rungs if each.rung is rung)
        leave = its.leave

        async def leave_dying(*args: object) -> object:
            die()
            return await leave(*args)

        its.leave = leave_dying
    else:
        probe = sim.box.probe.probe

        async def probe_dying(address: str, *args: Any, **kwargs: Any) -> ProbeResult:
            found = sim.box.listening_at(address)
            result = await probe(address, *args, **kwargs)
            if result.outcome is ProbeOutcome.OK and found is not None and found.worker_id == worker:
                die()
            return result

        sim.box.probe.probe = probe_dying  # type: ignore[method-assign]
    return died_ns
