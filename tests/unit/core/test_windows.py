from __future__ import annotations

from typing import Any

import pytest

from gpud.core.allocation import allocate
from gpud.core.contest import contest_of
from gpud.core.endpoint import ScalePolicy
from gpud.core.pacing import ScaleReason
from gpud.core.reclaim import Hold
from gpud.core.reconcile import plan
from gpud.core.windows import OpenWindow, WarmWindow
from gpud.core.worker import WorkerState
from gpud.errors import InvalidSpec
from tests.unit.core.making import endpoint, gpu_uuid, news, seen, spec, worker, world

DAY = WarmWindow(start="0 8 * * *", duration_s=3600.0)


def test_an_open_window_asks_for_its_workers_and_says_so() -> None:
    policy = ScalePolicy(max_workers=3)
    each = seen(endpoint("echo", policy), window_open=OpenWindow(window=DAY, edge_s=1500.0))
    answer = plan(world([each]))
    assert len(news(answer)) == 1
    decision = answer.decisions[each.endpoint.name]
    assert (decision.desired, decision.reason, decision.needed) == (1, ScaleReason.WARM_WINDOW, 0)
    assert answer.ask_again_at_s == 1500.0, "the answer changes at the window's edge"


def test_the_next_opening_is_waited_for() -> None:
    each = seen(endpoint("echo"), window_open=OpenWindow(edge_s=4600.0))
    answer = plan(world([each]))
    assert not answer.changes
    assert answer.ask_again_at_s == 4600.0


@pytest.mark.parametrize(
    ("policy", "desired", "reason"),
    [
        (ScalePolicy(min_workers=2, max_workers=3), 2, ScaleReason.MIN_WORKERS),
        (ScalePolicy(max_workers=0), 0, ScaleReason.PAUSED),
    ],
)
def test_bounds_come_after_windows(policy: ScalePolicy, desired: int, reason: ScaleReason) -> None:
    each = seen(endpoint("echo", policy), window_open=OpenWindow(window=DAY))
    decision = plan(world([each], gpus=4)).decisions[each.endpoint.name]
    assert (decision.desired, decision.reason) == (desired, reason)


def test_a_windows_worker_gives_way_to_an_endpoint_in_need_and_comes_back_when_nobody_is() -> None:
    warm = seen(endpoint("warm"), window_open=OpenWindow(window=DAY))
    needy = seen(endpoint("needy"), load=1, waiting=1, oldest_wait_s=1.0)
    holder = worker(
        0,
        WorkerState.READY,
        endpoint=warm.endpoint.name,
        revision=warm.endpoint.revision,
        gpu_uuids=(gpu_uuid(0),),
        ready_s=100.0,
    )
    box = world([warm, needy], [holder])
    answer = plan(box)
    contest = contest_of(box, answer.decisions, {warm.endpoint.name: [holder]})
    reclaims = allocate(contest, box.sharing).reclaims
    assert [(r.worker_id, r.endpoint, r.hold) for r in reclaims] == [(holder.id, "needy", Hold.IDLE)]
    alone = plan(world([warm]))
    assert len(news(alone)) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start": ""}, "start"),
        ({"start": "x" * 201}, "start"),
        ({"duration_s": 0.0}, "duration_s"),
        ({"end": "0 9 * * *"}, "duration_s"),
        ({"duration_s": 604_801.0}, "duration_s"),
        ({"workers": 0}, "workers"),
        ({"workers": 4}, "workers"),
    ],
)
def test_an_illegal_window_is_refused_by_its_field(changes: dict[str, Any], field: str) -> None:
    facts: dict[str, Any] = {"start": "0 8 * * *", "duration_s": 60.0, **changes}
    with pytest.raises(InvalidSpec) as refused:
        spec(scale=ScalePolicy(max_workers=3, warm_windows=(WarmWindow(**facts),)))
    assert list(refused.value.fields) == [f"scale.warm_windows.0.{field}"]


def test_a_paused_endpoint_keeps_its_windows_for_later() -> None:
    assert spec(scale=ScalePolicy(max_workers=0, warm_windows=(DAY,))).scale.warm_windows == (DAY,)


def test_windows_restart_no_worker() -> None:
    assert endpoint(scale=ScalePolicy(warm_windows=(DAY,))).revision == endpoint().revision
