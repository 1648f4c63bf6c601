"""Workers that share a GPU by reserved memory, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.gpu import GpuHealth
from gpud.core.ids import GpuUuid
from gpud.core.worker import WorkerState
from tests.sim.clients import Outcome
from tests.sim.final import check_books
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE = ScalePolicy(max_workers=1, concurrency=1, idle_timeout_s=600.0)


@pytest.fixture
def lone() -> Iterator[Sim]:
    """A box with one GPU."""
    with Sim(7, gpus=1) as sim:
        sim.restart()
        yield sim


def _serve(sim: Sim, name: str, slice_mib: int, scale: ScalePolicy = ONE) -> None:
    image = f"{name}:1"
    sim.images.push(image)
    sim.do(sim.up.fleet.control.deploy(sim.spec(name, gpus=1, image=image, scale=scale, slice_mib=slice_mib)))


def test_two_workers_serve_on_one_gpu_at_once_and_each_is_metered_for_its_part(lone: Sim) -> None:
    _serve(lone, "large", 16_000)
    _serve(lone, "small", 8_000)
    asked = [lone.request(name, takes_s=20) for name in ("large", "small")]
    lone.run(for_s=60)
    assert {request.outcome for request in asked} == {Outcome.ANSWERED}
    assert {w.state for w in lone.workers()} == {WorkerState.READY}
    (view,) = lone.do(lone.up.fleet.control.gpus())
    assert {holder.endpoint for holder in view.holders} == {"large", "small"}
    assert lone.usage_ns("large") == pytest.approx(2 * lone.usage_ns("small"), rel=0.1)
    check_books(lone)


def test_what_does_not_fit_beside_others_waits_until_one_of_them_gives_way(lone: Sim) -> None:
    for name in ("a", "b", "c"):
        _serve(lone, name, 11_000)
        lone.request(name, takes_s=1)
    lone.run(for_s=20)
    assert len(lone.workers()) == 3
    assert sum(w.state is WorkerState.READY for w in lone.workers()) == 2
    lone.run(for_s=90)
    assert {request.outcome for request in lone.requests} == {Outcome.ANSWERED}
    check_books(lone)


def test_a_whole_worker_and_slices_take_turns(lone: Sim) -> None:
    _serve(lone, "whole", 0)
    for name in ("a", "b"):
        _serve(lone, name, 11_000)
    for _ in range(40):
        for name in ("whole", "a", "b"):
            lone.request(name, takes_s=5)
    lone.run(for_s=900)
    assert {request.outcome for request in lone.requests} == {Outcome.ANSWERED}
    check_books(lone)


def test_the_daemon_comes_back_and_knows_who_shares_what(lone: Sim) -> None:
    for name, slice_mib in (("a", 11_000), ("b", 12_500)):
        _serve(lone, name, slice_mib, replace(ONE, min_workers=1))
    for name in ("a", "b"):
        lone.request(name, takes_s=1)
    lone.run(for_s=20)
    before = {w.id: w.gpu_slice for w in lone.workers()}
    assert all(before.values())
    lone.restart()
    lone.run(for_s=20)
    assert {w.id: w.gpu_slice for w in lone.workers()} == before
    _serve(lone, "c", 1_000)
    late = lone.request("c", takes_s=1)
    lone.run(for_s=10)
    assert late.outcome is None, "the headroom is nobody's"
    check_books(lone)


def test_memory_that_is_in_use_beyond_what_is_reserved_is_not_promised(lone: Sim) -> None:
    _serve(lone, "greedy", 4_000)
    lone.request("greedy", takes_s=600)
    lone.run(for_s=10)
    lone.gpus.start_process(GpuUuid("GPU-fake-0"), 99_999, used_mib=15_000)
    lone.run(for_s=20)  # gpud looks at shared GPUs every 15 s
    _serve(lone, "b", 6_000)
    waiting = lone.request("b", takes_s=1)
    lone.run(for_s=30)
    assert waiting.outcome is None
    assert [w.gpu_uuids for w in lone.workers("b")] == [()]
    (view,) = lone.do(lone.up.fleet.control.gpus())
    assert view.status.health is GpuHealth.HEALTHY, "its own worker goes on"
    lone.ask(lambda: lone.gpus.end_process(99_999))
    lone.run(for_s=40)
    assert waiting.outcome is Outcome.ANSWERED


def test_a_neighbours_memory_is_no_leftover_of_the_one_that_ended(lone: Sim) -> None:
    _serve(lone, "a", 11_000)
    _serve(lone, "b", 11_000)
    lone.request("a", takes_s=600)
    lone.request("b", takes_s=1)
    lone.run(for_s=20)
    lone.delete("b")
    lone.run(for_s=5)
    assert [w.endpoint for w in lone.workers()] == ["a"]
    (view,) = lone.do(lone.up.fleet.control.gpus())
    assert view.status.health is GpuHealth.HEALTHY
    check_books(lone)


def test_what_two_neighbours_leave_behind_is_promised_to_nobody(lone: Sim) -> None:
    """They end at once, and their memory comes back long after that."""
    scale = ScalePolicy(max_workers=2, concurrency=1, idle_timeout_s=5.0)
    _serve(lone, "a", 9_000, scale)
    lone.gpus.memory_return_s = 40.0
    for _ in range(2):
        lone.request("a", takes_s=5)
    lone.run_until(lambda: [w.state for w in lone.workers()] == [WorkerState.RELEASING] * 2, within_s=90)
    made = len(lone.events("worker.requested"))
    waiting = [lone.request("a", takes_s=5) for _ in range(2)]
    lone.run(for_s=25)
    (view,) = lone.do(lone.up.fleet.control.gpus())
    assert view.status.health is GpuHealth.QUARANTINED
    assert len(lone.events("worker.requested")) <= made + 4, "nobody starts in vain again and again"
    assert len(lone.workers()) <= 2
    lone.run(for_s=150)
    assert {request.outcome for request in waiting} == {Outcome.ANSWERED}
    check_books(lone)


def test_two_that_start_at_once_where_somebody_else_is_make_the_gpu_wait_for_him(lone: Sim) -> None:
    _serve(lone, "a", 9_000, ScalePolicy(max_workers=2, concurrency=1))
    lone.ask(lambda: lone.gpus.start_process(GpuUuid("GPU-fake-0"), 99_999, used_mib=18_000))
    waiting = [lone.request("a", takes_s=5) for _ in range(2)]
    lone.run(for_s=20)
    (view,) = lone.do(lone.up.fleet.control.gpus())
    assert view.status.health is GpuHealth.QUARANTINED
    assert "99999" in view.status.reason
    assert len(lone.events("worker.requested")) <= 4, "nobody starts in vain again and again"
    lone.ask(lambda: lone.gpus.end_process(99_999))
    lone.run(for_s=100)
    assert {request.outcome for request in waiting} == {Outcome.ANSWERED}
