from __future__ import annotations

import json

import pytest

from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName
from tests.sim.clients import Outcome
from tests.sim.final import check_calm
from tests.sim.sim import Sim
from tests.unit.core.making import worker_id

S = 1_000_000_000
_SHORT = ScalePolicy(max_workers=1, idle_timeout_s=5)


def _starts(sim: Sim, name: str) -> list[ColdStart]:
    return list(sim.up.fleet.state.recall(EndpointName(name)).cold_starts)


def _wake(sim: Sim, name: str) -> None:
    request = sim.request(name, takes_s=0.1)
    sim.run(for_s=90)
    assert request.outcome is Outcome.ANSWERED


def test_a_start_is_split_at_the_first_connection_and_the_first_byte(sim: Sim) -> None:
    sim.runtime.boot_s = 4
    sim.deploy("echo", _SHORT)
    _wake(sim, "echo")
    [start] = _starts(sim, "echo")
    assert 4 * S <= start.phases_ns[StartPhase.LISTEN] <= 4.5 * S
    assert start.phases_ns[StartPhase.READY] == 0
    [row] = sim.box.database.execute("SELECT phases_ns FROM cold_start").fetchall()
    assert json.loads(row[0])["first_byte"] == pytest.approx(0.1 * S, rel=0.01)


def test_only_the_first_answer_counts_and_none_of_a_worker_that_is_gone(sim: Sim) -> None:
    sim.deploy("echo", ScalePolicy(min_workers=1, max_workers=1))
    sim.run(for_s=10)
    [ready] = sim.workers("echo")
    for worker, first_byte_s in ((ready.id, 0.25), (ready.id, 9.0), (worker_id(99), 1.0)):
        sim.up.fleet.reconciler.start_answered(worker, first_byte_s)
    sim.run(for_s=1)
    [row] = sim.box.database.execute("SELECT phases_ns FROM cold_start").fetchall()
    assert json.loads(row[0])["first_byte"] == 0.25 * S


def test_a_start_that_sent_another_away_says_so() -> None:
    keeps = ScalePolicy(max_workers=1, idle_timeout_s=600)
    with Sim(3, gpus=1) as sim:
        sim.runtime.stop_s = 3
        for name in ("first", "second"):
            sim.deploy(name, keeps)
            _wake(sim, name)
        [first], [second] = _starts(sim, "first"), _starts(sim, "second")
    assert first.phases_ns[StartPhase.EVICT] == 0
    assert second.phases_ns[StartPhase.EVICT] == 3 * S


def test_a_start_slower_than_usual_names_its_culprit_in_the_event(sim: Sim) -> None:
    sim.runtime.boot_s = 1
    sim.deploy("echo", _SHORT)
    for _ in range(6):
        _wake(sim, "echo")
    assert not sim.box.database.execute("SELECT 1 FROM event WHERE facts LIKE '%slower%'").fetchall()
    sim.runtime.boot_s = 20
    _wake(sim, "echo")
    [row] = sim.box.database.execute("SELECT facts FROM event WHERE facts LIKE '%slower%'").fetchall()
    assert "listen took" in row[0]


def test_a_restarted_daemon_remembers_how_long_starts_take(sim: Sim) -> None:
    sim.runtime.boot_s = 7
    sim.deploy("echo", _SHORT)
    for _ in range(2):
        _wake(sim, "echo")
    before = _starts(sim, "echo")
    sim.restart()
    sim.run(for_s=5)
    after = _starts(sim, "echo")
    assert [start.total_ns for start in after] == [start.total_ns for start in before]
    assert 7 <= sim.up.fleet.state.recall(before[0].endpoint).cold_start_s <= 8
    check_calm(sim)
