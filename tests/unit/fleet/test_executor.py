from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.actions import Action
from gpud.core.worker import WorkerState
from gpud.errors import DependencyDown, LaunchFailed
from gpud.fleet.executor import Executor
from gpud.fleet.state import FleetState
from tests.unit.core.making import worker, worker_id
from tests.unit.fleet.virtual import virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gpud.core.ids import WorkerId
    from gpud.errors import GpudError

_S = WorkerState


class _Rig:
    """One worker and an executor whose efforts only say when they began and how they ended."""

    def __init__(self, tasks: asyncio.TaskGroup, *, hands_free: bool = True) -> None:
        self.state = FleetState()
        self.told: list[str] = []
        self.releases: dict[Action, asyncio.Event] = {action: asyncio.Event() for action in Action}
        self.errors: dict[Action, list[Exception]] = {}
        self.needs_engine = False
        efforts = {each: self._effort(each) for each in Action}
        self.executor = Executor(self.state, efforts, tasks, lambda _: self.needs_engine)
        if hands_free:
            self.executor.free_hands()
        self.state.workers[worker_id(0)] = worker(state=_S.PENDING)

    def _effort(self, action: Action) -> Callable[[WorkerId], Awaitable[None]]:
        async def run(_: WorkerId) -> None:
            self.told.append(f"{action} begins")
            try:
                if self.errors.get(action):
                    raise self.errors[action].pop(0)
                await self.releases[action].wait()
                self.told.append(f"{action} ends")
            except asyncio.CancelledError:
                self.told.append(f"{action} is cancelled")
                raise

        return run

    async def come_to(self, state: WorkerState, *, may_start: bool = True) -> None:
        """The worker is in another state: another round."""
        before = self.state.workers[worker_id(0)]
        self.state.workers[worker_id(0)] = replace(before, state=state, generation=before.generation + 1)
        await self.round(may_start=may_start)

    async def round(self, *, may_start: bool = True) -> None:
        self.executor.follow(may_start=may_start)
        await asyncio.sleep(0.01)

    async def end(self, action: Action) -> None:
        self.releases[action].set()
        await asyncio.sleep(0.01)


def _story(tell: Callable[[_Rig], Awaitable[None]], *, hands_free: bool = True) -> list[str]:
    async def run() -> list[str]:
        async with asyncio.TaskGroup() as tasks:
            rig = _Rig(tasks, hands_free=hands_free)
            await tell(rig)
            rig.executor.close()
        return rig.told

    return virtual(run())


@pytest.mark.parametrize(
    ("state", "may_start", "begun"),
    [
        (_S.CREATING, True, ["launch begins"]),
        (_S.CREATING, False, []),
        (_S.RESERVED, True, ["verify_gpus begins"]),
        (_S.RESERVED, False, []),
        (_S.PULLING, True, []),
        (_S.STOPPING, True, []),
    ],
)
def test_what_may_begin_beside_the_write_begins_once(
    state: WorkerState, may_start: bool, begun: list[str]
) -> None:
    async def tell(rig: _Rig) -> None:
        before = rig.state.workers[worker_id(0)]
        rig.state.workers[worker_id(0)] = replace(before, state=state)
        rig.executor.hurry(may_start=may_start)
        await asyncio.sleep(0.01)
        rig.told.append("-")
        await rig.round()

    said = _story(tell)
    assert said[: said.index("-")] == begun
    assert said.count("launch begins") <= 1
    assert said.count("verify_gpus begins") <= 1


def test_a_start_of_the_engine_waits_for_the_write() -> None:
    async def tell(rig: _Rig) -> None:
        rig.needs_engine = True
        before = rig.state.workers[worker_id(0)]
        rig.state.workers[worker_id(0)] = replace(before, state=_S.CREATING)
        rig.executor.hurry(may_start=True)
        await asyncio.sleep(0.01)
        rig.told.append("-")
        await rig.round()

    assert _story(tell)[:2] == ["-", "launch begins"]


def test_an_effort_runs_while_the_state_asks_for_it() -> None:
    async def tell(rig: _Rig) -> None:
        await rig.come_to(_S.PULLING)
        await rig.round()
        await rig.come_to(_S.RESERVED)
        rig.told.append("-")

    assert _story(tell)[:4] == [
        "pull_image begins",
        "pull_image is cancelled",
        "verify_gpus begins",
        "-",
    ]


def test_a_launch_is_never_cancelled_and_the_stop_waits_for_its_answer() -> None:
    async def tell(rig: _Rig) -> None:
        await rig.come_to(_S.CREATING)
        await rig.come_to(_S.STOPPING)
        assert rig.told == ["launch begins"]
        await rig.end(Action.LAUNCH)
        rig.told.append("-")

    assert _story(tell)[:4] == ["launch begins", "launch ends", "stop begins", "-"]


def test_an_effort_that_ended_in_vain_is_made_again() -> None:
    async def tell(rig: _Rig) -> None:
        rig.releases[Action.STOP].set()
        await rig.come_to(_S.STOPPING)
        for _ in range(3):
            await rig.round()

    assert _story(tell) == ["stop begins", "stop ends"] * 2


def test_a_worker_that_drained_and_came_back_is_watched_again() -> None:
    async def tell(rig: _Rig) -> None:
        await rig.come_to(_S.READY)
        await rig.come_to(_S.DRAINING)
        await rig.come_to(_S.READY)
        for _ in range(3):
            await rig.round()
        rig.told.append("-")

    told = _story(tell)
    assert told[:4] == ["watch_health begins", "watch_health is cancelled", "watch_health begins", "-"]


def test_nothing_begins_that_is_not_on_disk_but_what_ends_a_worker_goes_on() -> None:
    async def tell(rig: _Rig) -> None:
        for state in (_S.PULLING, _S.RESERVED, _S.CREATING):
            await rig.come_to(state, may_start=False)
        assert rig.told == []
        await rig.come_to(_S.STOPPING, may_start=False)
        assert rig.told == ["stop begins"]

    _story(tell)


def test_before_adoption_workers_are_probed_and_nothing_else() -> None:
    async def tell(rig: _Rig) -> None:
        await rig.come_to(_S.STOPPING)
        await rig.come_to(_S.CREATING)
        assert rig.told == []
        await rig.come_to(_S.NOT_READY)
        assert rig.told == ["await_return begins"]

    _story(tell, hands_free=False)


@pytest.mark.parametrize("why", [DependencyDown("away"), LaunchFailed("It stays frozen.")])
def test_what_cannot_be_done_now_is_tried_again_and_again_with_growing_pauses(why: GpudError) -> None:
    async def tell(rig: _Rig) -> None:
        rig.errors[Action.STOP] = [why] * 7
        await rig.come_to(_S.STOPPING)
        began_s = asyncio.get_running_loop().time()
        while rig.told.count("stop begins") < 8:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)
        took_s = asyncio.get_running_loop().time() - began_s
        assert took_s == pytest.approx(0.2 + 0.5 + 1 + 2 + 5 + 5 + 5, abs=0.2)

    _story(tell)


def test_an_unknown_error_of_an_effort_ends_the_daemon() -> None:
    async def tell(rig: _Rig) -> None:
        rig.errors[Action.STOP] = [ValueError("a bug")]
        await rig.come_to(_S.STOPPING)
        await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as caught:
        _story(tell)
    assert caught.group_contains(ValueError, match="a bug")


def test_efforts_for_workers_that_are_gone_end() -> None:
    async def tell(rig: _Rig) -> None:
        await rig.come_to(_S.READY)
        rig.state.workers.clear()
        await rig.round()

    assert _story(tell) == ["watch_health begins", "watch_health is cancelled"]


def test_after_the_end_nothing_begins() -> None:
    async def tell(rig: _Rig) -> None:
        rig.executor.close()
        await rig.come_to(_S.STOPPING)

    assert _story(tell) == []
