"""Who gets a place in a full queue, and which workers are replaced: the dispatcher without HTTP."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

import pytest

from gpud import errors
from gpud.core import ejection
from gpud.core.budget import BudgetSpent
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.errors import GpudError, QueueFull, WorkerUnreachable
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.hold import Held
from gpud.gateway.refusals import require_budget_of_job
from tests.contract.gateway.rig import RecordingWatcher
from tests.unit.gateway.wires import StandingClock

if TYPE_CHECKING:
    from gpud.gateway.lane import Slot

NAME = EndpointName("llm")


class Asker:
    def __init__(self, party: str) -> None:
        self.party = party
        self.slot: Slot | None = None
        self.error: GpudError | None = None

    def granted(self, slot: Slot) -> None:
        self.slot = slot

    def refused(self, error: GpudError) -> None:
        self.error = error


class Desk:
    """A dispatcher with one endpoint, whose askers a test plays."""

    def __init__(self) -> None:
        self.clock = StandingClock()
        self.watcher = RecordingWatcher()
        self.dispatcher = Dispatcher(self.clock)
        self.dispatcher.watch(self.watcher)
        self.askers: list[Asker] = []

    def publish(self, *numbers: int, **facts: float) -> None:
        known: dict[str, float] = {"concurrency": 1, "max_queue": 10}
        workers = tuple(
            RouteWorker(worker_id=WorkerId(f"wk_{n:016d}"), address="10.0.0.1", port=80) for n in numbers
        )
        route = Route(
            endpoint=NAME,
            hold_timeout_s=30.0,
            request_timeout_s=30.0,
            workers=workers,
            **(known | facts),  # type: ignore[arg-type]
        )
        self.dispatcher.publish(RoutingTable({NAME: route}))

    def ask(self, party: str = "") -> Asker:
        asker = Asker(party)
        self.askers.append(asker)
        try:
            got = self.dispatcher.acquire_nowait(NAME, asker)
        except QueueFull as error:
            asker.error = error
        else:
            if not isinstance(got, Held):
                asker.slot = got
        return asker

    def waiting(self) -> Counter[str]:
        return Counter(asker.party for asker in self.askers if asker.slot is None and asker.error is None)

    def fail(self, times: int) -> None:
        """Let every worker that is chosen fail, `times` over."""
        for _ in range(times):
            slot = self.ask().slot
            assert slot is not None
            slot.judge(self.clock.now_s(), failed=slot.worker.worker_id.endswith("2"))
            slot.release()


async def test_one_key_alone_has_the_whole_queue() -> None:
    desk = Desk()
    desk.publish()
    for _ in range(12):
        desk.ask("a")
    assert desk.waiting() == {"a": 10}
    assert [asker.error is not None for asker in desk.askers] == [False] * 10 + [True] * 2


async def test_a_second_key_gets_its_share_of_a_full_queue() -> None:
    desk = Desk()
    desk.publish()
    flood = [desk.ask("a") for _ in range(10)]
    others = [desk.ask("b") for _ in range(7)]

    assert desk.waiting() == {"a": 5, "b": 5}
    refused = [asker.error for asker in flood if asker.error is not None]
    assert [asker for asker in flood if asker.error is None] == flood[:5]  # the newest gave way
    assert {error.extra["reason"] for error in refused} == {"queue_share"}
    assert all(error.retry_after_s for error in refused)
    assert [asker.error is not None for asker in others] == [False] * 5 + [True] * 2


async def test_held_requests_are_dispatched_in_order_of_arrival_whosever_they_are() -> None:
    desk = Desk()
    desk.publish()
    for party in "aaabab":
        desk.ask(party)
    desk.publish(1)
    served = []
    while any(asker.slot is not None for asker in desk.askers if asker not in served):
        asker = next(asker for asker in desk.askers if asker.slot is not None and asker not in served)
        served.append(asker)
        assert asker.slot is not None
        asker.slot.release()
    assert served == desk.askers


async def test_an_endpoint_retries_ten_times_at_once_and_then_a_fifth_of_its_requests() -> None:
    """So that the retries of a fleet that is going down do not bring down what is left of it."""
    desk, numbers = Desk(), count(1)

    def retried() -> bool:
        desk.publish(next(numbers), next(numbers))  # new ones, of which none was left out yet
        slot = desk.ask().slot
        assert slot is not None
        try:
            other = slot.unreachable(Asker(""), "refused the connection")
        except WorkerUnreachable:
            return False
        assert not isinstance(other, Held)
        assert other.worker != slot.worker
        other.release()
        return True

    at_once = 0
    while retried():
        at_once += 1
    assert at_once == 12  # ten, and two that these requests earned
    assert sum(retried() for _ in range(100)) == 20


async def test_a_worker_left_out_three_times_in_a_quarter_of_an_hour_is_replaced() -> None:
    desk = Desk()
    desk.publish(1, 2)
    bad = WorkerId("wk_0000000000000002")
    for times in (1, 2, 3):
        assert f"worn out {bad}" not in desk.watcher.told
        desk.fail(2 * ejection.FAILURES_MAX)
        lane = desk.dispatcher._lanes[NAME]
        assert lane.ejected == {bad}
        desk.clock.time_s += ejection.EJECTION_S * times + 1
        desk.dispatcher._ejection_ended(lane)
        assert not lane.ejected
    assert desk.watcher.told.count(f"worn out {bad}") == 1


async def test_ejections_long_ago_replace_nobody() -> None:
    desk = Desk()
    desk.publish(1, 2)
    for _ in range(4):
        desk.fail(2 * ejection.FAILURES_MAX)
        desk.clock.time_s += ejection.RECYCLE_WINDOW_S + 1
        desk.dispatcher._ejection_ended(desk.dispatcher._lanes[NAME])
    assert not [told for told in desk.watcher.told if told.startswith("worn out")]


async def test_leaving_the_rotation_does_not_wipe_the_count() -> None:
    desk = Desk()
    desk.publish(1, 2)
    for _ in range(3):
        desk.fail(2 * ejection.FAILURES_MAX)
        desk.clock.time_s += 60
        desk.publish(1)  # a probe failed
        desk.publish(1, 2)  # and passed
    assert desk.watcher.told.count("worn out wk_0000000000000002") == 1


@pytest.mark.parametrize("failed", [False, True])
async def test_a_worker_is_new_until_it_has_answered(failed: bool) -> None:
    desk = Desk()
    desk.publish(1, first_request_timeout_s=100.0)
    slot = desk.ask().slot
    assert slot is not None
    assert slot.first
    slot.judge(desk.clock.now_s(), failed=failed)
    assert slot.first == failed
    slot.release()
    desk.publish(1, 3)
    new = {asker.slot.worker.worker_id: asker.slot.first for asker in (desk.ask(), desk.ask()) if asker.slot}
    assert new == {"wk_0000000000000001": failed, "wk_0000000000000003": True}


async def test_a_key_without_budget_runs_where_there_is_room_and_waits_for_none() -> None:
    desk = Desk()
    spent = BudgetSpent(
        budget="b", detail="The budget is spent.", until_ms=0, ends_at_s=desk.clock.now_s() + 60
    )
    desk.publish(1)
    table = desk.dispatcher.table
    desk.dispatcher.publish(RoutingTable(table.routes, keys_spent={"key_a": spent}))
    slot = desk.dispatcher.acquire_nowait(NAME, Asker(""), key="key_a")
    assert not isinstance(slot, Held)
    with pytest.raises(errors.BudgetSpent) as refused:
        desk.dispatcher.acquire_nowait(NAME, Asker(""), key="key_a")
    assert refused.value.extra == {"reason": "budget_spent"}
    assert isinstance(desk.dispatcher.acquire_nowait(NAME, Asker(""), key="key_b"), Held)
    require_budget_of_job(desk.dispatcher.table, NAME, "key_a", 0.0)  # a worker is ready
    nobody = RoutingTable(keys_spent={"key_a": spent})
    with pytest.raises(errors.BudgetSpent):
        require_budget_of_job(nobody, NAME, "key_a", 0.0)
    require_budget_of_job(nobody, NAME, "key_b", 0.0)
