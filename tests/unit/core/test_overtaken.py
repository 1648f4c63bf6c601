from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.endpoint import ScalePolicy
from gpud.core.overtaken import overtaken
from gpud.core.reconcile import plan
from gpud.core.worker import Cause
from tests.unit.core.making import endpoint, events, seen, worker, world

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId


def test_a_plan_is_overtaken_by_a_request_at_a_worker_that_was_to_leave_for_want_of_any() -> None:
    each = seen(endpoint(scale=ScalePolicy(max_workers=2)))
    idle = worker(0, revision=each.endpoint.revision)
    box = world([each], [idle])
    answer = plan(box)
    assert [event.cause for event in events(answer)] == [Cause.IDLE]

    def came(worker_id: WorkerId) -> int:
        return int(worker_id == idle.id)

    assert overtaken(answer, box, came)
    assert not overtaken(answer, box, lambda _worker_id: 0)


def test_a_plan_that_moves_nobody_is_never_overtaken() -> None:
    each = seen(endpoint(scale=ScalePolicy(min_workers=1)))
    box = world([each], [worker(0, revision=each.endpoint.revision)])
    answer = plan(box)
    assert answer.changes == ()
    assert not overtaken(answer, box, lambda _worker_id: 1)


def test_requests_at_a_worker_that_had_some_change_nothing() -> None:
    each = seen(endpoint(scale=ScalePolicy(max_workers=0)))
    busy = worker(0, revision=each.endpoint.revision)
    box = world([each], [busy], in_flight={busy.id: 1})
    answer = plan(box)
    assert events(answer)
    assert not overtaken(answer, box, lambda _worker_id: 2)
