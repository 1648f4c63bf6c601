from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.endpoint import ScalePolicy
from gpud.core.wanted import told
from gpud.core.worker import WorkerState
from tests.sim.clients import Outcome
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from tests.sim.clients import Request


def _life(*, breaks_share: float) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """What is on disk after a while in which endpoints start, compete and rest."""
    with Sim(seed=7, gpus=2, shuffle=False) as sim:
        sim.box.breaks_share = breaks_share
        sim.deploy("warm", ScalePolicy(min_workers=1, max_workers=2))
        for name in ("one", "two", "three"):
            sim.deploy(name, ScalePolicy(max_workers=2, idle_timeout_s=10.0))
        for name in ("one", "two", "three", "one"):
            sim.request(name, takes_s=3)
            sim.run(for_s=1)
        sim.run(for_s=120)
        database = sim.box.database
        moves = database.execute("SELECT kind, endpoint, worker_id, facts FROM event ORDER BY seq").fetchall()
        workers = database.execute("SELECT id, endpoint, state, cause FROM worker ORDER BY id").fetchall()
        return [tuple(row) for row in moves], [tuple(row) for row in workers]


def test_a_fleet_lives_the_same_life_whether_its_rounds_are_interrupted_or_not() -> None:
    whole, interrupted = _life(breaks_share=0.0), _life(breaks_share=1.0)
    assert len(whole[1]) >= 4
    assert interrupted == whole


def test_a_worker_that_gets_a_request_while_it_is_decided_that_it_leaves_stays() -> None:
    came = [_request_at_break(number) for number in range(1, 40, 2)]
    assert came[0], "in the first break the worker has not begun to leave"
    assert not came[-1], "in the last it has"
    assert came.index(False) >= 5


def _request_at_break(number: int) -> bool:
    """Whether the worker was still there at one of the breaks after its idle timeout, and a request came."""
    with Sim(shuffle=False) as sim:
        sim.deploy("echo", ScalePolicy(max_workers=1, idle_timeout_s=10.0))
        first = sim.request("echo")
        sim.run_until(lambda: first.outcome is Outcome.ANSWERED, within_s=30)
        (worker,) = sim.workers("echo")
        idle_until_s = sim.now_s + 9.9
        breaks = 0
        sent: list[Request] = []

        def come() -> None:
            nonlocal breaks
            breaks += sim.now_s >= idle_until_s
            if breaks == number and sim.up.fleet.state.workers[worker.id].state is WorkerState.READY:
                sent.append(sim.request("echo", takes_s=2))
                breaks += 1

        sim.box.breaks_share, sim.box.on_break = 1.0, come
        sim.run(for_s=11.5)
        for request in sent:
            assert request.dispatched_to == [WorkerState.READY]
            assert sim.workers("echo")[0].state is WorkerState.READY
            assert sim.events("worker.draining") == []
        return bool(sent)


def test_a_start_says_what_wanted_it() -> None:
    with Sim(gpus=2) as sim:
        sim.deploy("kept", ScalePolicy(min_workers=1, max_workers=1))
        sim.deploy("called", ScalePolicy(max_workers=1))
        sim.run(for_s=1)
        sim.request("called")
        sim.run(for_s=5)
        kept, called = sim.events("worker.requested")
        assert (kept["why"], kept["waiting"]) == ("min_workers", 0)
        assert (called["why"], called["waiting"]) == ("concurrency", 1)
        assert called["detail"] == "1 request waited. Rule: concurrency."
        for name, requested in (("kept", kept), ("called", called)):
            (start,) = sim.do(sim.up.store.reads.cold_starts(name, limit=9))
            assert told(start.wanted) == requested["detail"]
