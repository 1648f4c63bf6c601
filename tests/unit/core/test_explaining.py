"""Each reason for an unmet wish: what it says, and when it is expected to end."""

from __future__ import annotations

from gpud.core.endpoint import ScalePolicy
from gpud.core.explaining import unmet
from gpud.core.gpu import GpuHealth
from gpud.core.pacing import ScaleDecision, ScaleReason
from gpud.core.reconcile import plan
from gpud.core.starts import StartRecord
from gpud.core.waiting import REMEDIES, WaitReason, remedy
from gpud.core.worker import WorkerState
from tests.unit.core.making import endpoint, events, gpu_statuses, gpu_uuid, seen, worker, world

NOW_S = 1000.0
WANTED = ScaleDecision(desired=1, reason=ScaleReason.CONCURRENCY, wished=1, needed=1)


def _only(waits: list[WaitReason] | tuple[WaitReason, ...]) -> WaitReason:
    (wait,) = waits
    assert wait.reason in REMEDIES
    return wait


def test_a_wait_for_a_gpu_names_its_holder_and_the_end_of_its_turn() -> None:
    needy = seen(endpoint("needy"), load=1, waiting=1, oldest_wait_s=1.0)
    busy = seen(endpoint("busy"), load=1)
    holder = worker(
        0,
        WorkerState.READY,
        endpoint=busy.endpoint.name,
        revision=busy.endpoint.revision,
        gpu_uuids=(gpu_uuid(0),),
        ready_s=NOW_S - 100.0,
    )
    waiting = worker(1, WorkerState.PENDING, endpoint=needy.endpoint.name, revision=needy.endpoint.revision)
    answer = plan(world([needy, busy], [holder, waiting], in_flight={holder.id: 1}))
    wait = _only(answer.waits[needy.endpoint.name])
    assert wait.reason == "waiting_for_gpu"
    assert wait.facts["held_by"] == ["busy"]
    assert wait.ends_at_s == NOW_S - 100.0 + 180.0, "three cold starts of a minute after it was ready"


def test_an_open_circuit_tells_the_error_and_the_next_try() -> None:
    starts = StartRecord(failures=3, last_error="exit 1", open=True, next_try_s=NOW_S + 8.0)
    waits = unmet(seen(endpoint(), starts=starts), [], WANTED, engine_up=True, now_s=NOW_S)
    wait = _only(waits)
    assert (wait.reason, wait.facts["error"], wait.facts["retry_in_s"]) == ("circuit_open", "exit 1", 8.0)
    assert wait.ends_at_s == NOW_S + 8.0


def test_a_pull_is_told_by_its_image() -> None:
    pulling = worker(0, WorkerState.PULLING)
    wait = _only(unmet(seen(endpoint()), [pulling], WANTED, engine_up=True, now_s=NOW_S))
    assert (wait.reason, wait.detail) == ("image_pulling", "Pulling echo:1.")


def test_a_start_under_way_is_expected_after_a_usual_cold_start() -> None:
    starting = worker(0, WorkerState.STARTING, since_s=NOW_S - 10.0)
    each = seen(endpoint(), cold_start_s=30.0)
    assert _only(unmet(each, [starting], WANTED, engine_up=True, now_s=NOW_S)).ends_at_s == NOW_S + 20.0
    late = unmet(each, [starting], WANTED, engine_up=True, now_s=NOW_S + 21.0)
    assert _only(late).ends_at_s is None, "nobody knows any more"


def test_the_limit_of_starts_is_told_with_the_setting_that_sets_it() -> None:
    each = seen(endpoint(scale=ScalePolicy(max_workers=3, concurrency=1)), load=3, waiting=3)
    revision = each.endpoint.revision
    starting = worker(0, WorkerState.STARTING, revision=revision, gpu_uuids=(gpu_uuid(0),), since_s=NOW_S)
    waiting = worker(1, WorkerState.PENDING, revision=revision)
    for limits, setting in (
        ({"endpoint_starts_max": 1}, "scaling.endpoint_starts"),
        ({"starts_max": 1}, "scaling.starts"),
    ):
        answer = plan(world([each], [starting, waiting], gpus=3, **limits))
        limit = next(w for w in answer.waits[each.endpoint.name] if w.reason == "start_limit")
        assert limit.facts == {"starting": 1, "limit": 1, "setting": setting}
        assert setting in limit.detail


def test_an_endpoint_that_wants_many_workers_at_once_starts_no_more_than_its_limit() -> None:
    each = seen(endpoint(scale=ScalePolicy(max_workers=4, concurrency=1)), load=4, waiting=4)
    waiting = [worker(n, WorkerState.PENDING, revision=each.endpoint.revision) for n in range(4)]
    answer = plan(world([each], waiting, gpus=4, starts_max=4, endpoint_starts_max=2))
    assert len([event for event in events(answer) if event.gpu_uuids]) == 2
    limits = [wait.facts for wait in answer.waits[each.endpoint.name] if wait.reason == "start_limit"]
    assert limits[0] == {"starting": 2, "limit": 2, "setting": "scaling.endpoint_starts"}


def test_a_sick_gpu_is_told_with_what_ails_it() -> None:
    each = seen(endpoint(), load=1, waiting=1)
    waiting = worker(0, WorkerState.PENDING, revision=each.endpoint.revision)
    box = world([each], [waiting])
    sick = plan(
        world([each], [waiting]).__class__(
            now_s=box.now_s,
            endpoints=box.endpoints,
            workers=box.workers,
            in_flight={},
            gpus=gpu_statuses(1, health=GpuHealth.UNHEALTHY),
        )
    )
    wait = _only(sick.waits[each.endpoint.name])
    assert wait.reason == "gpu_unhealthy"
    assert "as told" in wait.detail
    assert wait.facts["gpus"] == [gpu_uuid(0)]


def test_every_reason_has_a_remedy() -> None:
    for reason in REMEDIES:
        assert remedy(WaitReason(reason=reason, detail=""), endpoint().name)
