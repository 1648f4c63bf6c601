"""What the durable fleet state promises, on a database file and on one in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.gpu import Gpu, GpuHealth, GpuSlice, GpuStatus
from gpud.core.ids import EndpointName, Revision, WorkerId
from gpud.core.metering import Phase
from gpud.core.records import (
    ColdStartSaved,
    EndpointDeleted,
    EndpointSaved,
    EventRecorded,
    GpuHealthSaved,
    HeartbeatWritten,
    LeaseClosed,
    LeaseOpened,
    SegmentClosed,
    SegmentOpened,
    WorkerInserted,
)
from gpud.core.worker import Cause, WorkerState
from gpud.errors import InvariantBroken, Unavailable
from gpud.ports.store import FleetRows
from tests.contract.store_rig import (
    GPU_A,
    GPU_B,
    KINDS,
    HandClock,
    Life,
    S,
    a_full_endpoint,
    a_worker,
    an_endpoint,
    moved,
    opened,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, clock) as store:
        yield store


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.fleet.load_fleet() == FleetRows(
        endpoints=(), workers=(), leases=(), open_segments=(), gpu_statuses=(), heartbeat=None
    )


async def test_an_endpoint_comes_back_as_it_was_saved_with_every_field_set(store: Store) -> None:
    endpoint = a_full_endpoint()
    await store.fleet.record([EndpointSaved(endpoint=endpoint)])
    assert (await store.fleet.load_fleet()).endpoints == (endpoint,)


async def test_an_endpoint_of_defaults_comes_back_as_it_was_saved(store: Store) -> None:
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint())])
    assert (await store.fleet.load_fleet()).endpoints == (an_endpoint(),)


async def test_saving_an_endpoint_again_replaces_it(store: Store) -> None:
    changed = an_endpoint(command=("--other",))
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), EndpointSaved(endpoint=changed)])
    assert (await store.fleet.load_fleet()).endpoints == (changed,)


async def test_a_deleted_endpoint_leaves_its_workers_and_usage(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    await store.fleet.record([EndpointDeleted(name=EndpointName("llm"))])
    rows = await store.fleet.load_fleet()
    assert rows.endpoints == ()
    assert rows.workers == (life.worker,)
    assert rows.open_segments == (life.segment,)


async def test_deleting_an_endpoint_that_is_not_there_changes_nothing(store: Store) -> None:
    await store.fleet.record([EndpointDeleted(name=EndpointName("none"))])
    assert (await store.fleet.load_fleet()).endpoints == ()


async def test_a_worker_comes_back_as_it_was_written_with_every_field_set(store: Store) -> None:
    worker = a_worker(
        state=WorkerState.DRAINING,
        generation=7,
        gpu_uuids=(GPU_B, GPU_A),
        address="10.1.2.3",
        cause=Cause.OPERATOR,
        detail="asked for",
        container_started_ns=1_763_730_000_000_000_123,
        container_finished_ns=1_763_730_009_000_000_456,
        exit_code=137,
        ready_s=3.5,
        adopted=True,
        failed=True,
        force=True,
    )
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), WorkerInserted(worker=worker)])
    assert (await store.fleet.load_fleet()).workers == (worker,)


async def test_a_worker_that_is_gone_is_not_loaded(store: Store) -> None:
    worker, move = moved(a_worker(), WorkerState.GONE)
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), WorkerInserted(worker=a_worker()), move])
    assert (await store.fleet.load_fleet()).workers == ()
    assert await store.reads.list_workers(include_gone=True) == (worker,)


async def test_a_transition_writes_worker_lease_and_segment_together(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A, GPU_B)
    rows = await store.fleet.load_fleet()
    assert rows.workers == (life.worker,)
    assert rows.leases == ((GPU_A, life.worker.id), (GPU_B, life.worker.id))
    assert rows.open_segments == (life.segment,)


async def test_a_move_decided_on_another_state_is_refused_and_says_what_is_there(store: Store) -> None:
    worker = a_worker()
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), WorkerInserted(worker=worker)])
    pulling, move = moved(worker, WorkerState.PULLING)
    await store.fleet.record([move])
    with pytest.raises(InvariantBroken, match="it is pulling at generation 1"):
        await store.fleet.record([move])
    assert (await store.fleet.load_fleet()).workers == (pulling,)


async def test_a_move_decided_on_another_generation_is_refused(store: Store) -> None:
    worker = a_worker()
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), WorkerInserted(worker=worker)])
    _after, move = moved(worker, WorkerState.PULLING)
    with pytest.raises(InvariantBroken, match="it is pending at generation 0"):
        await store.fleet.record([replace(move, from_generation=3)])


async def test_a_move_of_a_worker_without_a_row_is_refused(store: Store) -> None:
    _after, move = moved(a_worker(), WorkerState.PULLING)
    with pytest.raises(InvariantBroken, match="it has no row"):
        await store.fleet.record([move])


async def test_a_gpu_has_one_holder_and_the_refusal_names_it(store: Store, clock: HandClock) -> None:
    first = await Life(store, clock, 1).begin()
    second = await Life(store, clock, 2).begin()
    await first.reserve(GPU_A)
    with pytest.raises(InvariantBroken, match=f"{first.worker.id} holds it"):
        await second.reserve(GPU_B, GPU_A)
    rows = await store.fleet.load_fleet()
    assert rows.leases == ((GPU_A, first.worker.id),)
    assert {worker.id: worker.state for worker in rows.workers} == {
        first.worker.id: WorkerState.RESERVED,
        second.worker.id: WorkerState.PENDING,
    }


async def test_slices_of_one_gpu_are_leased_as_long_as_they_fit_it_together(
    store: Store, clock: HandClock
) -> None:
    first, second, third, fourth, fifth = [await Life(store, clock, n).begin() for n in range(1, 6)]
    await first.reserve(GPU_A, gpu_slice=GpuSlice(memory_mib=600, of_mib=1000))
    with pytest.raises(InvariantBroken, match=f"{first.worker.id} holds 600 MiB of it"):
        await fourth.reserve(GPU_A, gpu_slice=GpuSlice(memory_mib=401, of_mib=1000))
    await second.reserve(GPU_A, gpu_slice=GpuSlice(memory_mib=400, of_mib=1000))
    with pytest.raises(InvariantBroken, match="holds 1000 MiB of it"):
        await fifth.reserve(GPU_A)
    await third.reserve(GPU_B)
    rows = await store.fleet.load_fleet()
    leases = {(GPU_A, first.worker.id), (GPU_A, second.worker.id), (GPU_B, third.worker.id)}
    assert set(rows.leases) == leases
    slices = {worker.id: worker.gpu_slice for worker in rows.workers}
    assert slices[second.worker.id] == GpuSlice(memory_mib=400, of_mib=1000)
    assert slices[third.worker.id] is None
    assert await store.reads.audit() == ()


async def test_a_whole_gpu_is_leased_beside_no_slice_and_no_slice_beside_it(
    store: Store, clock: HandClock
) -> None:
    first, second = [await Life(store, clock, number).begin() for number in (1, 2)]
    await first.reserve(GPU_A)
    with pytest.raises(InvariantBroken, match=f"{first.worker.id} holds it"):
        await second.reserve(GPU_A, gpu_slice=GpuSlice(memory_mib=1, of_mib=1000))


async def test_of_a_hundred_workers_that_want_one_gpu_at_once_one_gets_it(
    store: Store, clock: HandClock
) -> None:
    lives = [await Life(store, clock, number).begin() for number in range(1, 101)]
    outcomes = await asyncio.gather(*(life.reserve(GPU_A) for life in lives), return_exceptions=True)
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert len(refused) == 99
    assert all(isinstance(outcome, InvariantBroken) for outcome in refused)
    assert len((await store.fleet.load_fleet()).leases) == 1


async def test_a_gpu_given_back_can_be_leased_again(store: Store, clock: HandClock) -> None:
    first = await Life(store, clock, 1).begin()
    second = await Life(store, clock, 2).begin()
    await first.reserve(GPU_A)
    await first.give_back()
    await second.reserve(GPU_A)
    assert (await store.fleet.load_fleet()).leases == ((GPU_A, second.worker.id),)


async def test_a_lease_is_closed_only_by_its_holder_and_once(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    for gpu, worker in ((GPU_A, WorkerId("wk_other")), (GPU_B, life.worker.id)):
        with pytest.raises(InvariantBroken, match="holds no open lease"):
            await store.fleet.record([LeaseClosed(gpu_uuid=gpu, worker_id=worker, at_boot_ns=clock.boot)])
    closing = LeaseClosed(gpu_uuid=GPU_A, worker_id=life.worker.id, at_boot_ns=clock.boot)
    await store.fleet.record([closing])
    with pytest.raises(InvariantBroken):
        await store.fleet.record([closing])


async def test_a_lease_cannot_end_before_it_began(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    too_early = LeaseClosed(gpu_uuid=GPU_A, worker_id=life.worker.id, at_boot_ns=clock.boot - 1)
    with pytest.raises(InvariantBroken, match="LeaseClosed contradicts"):
        await store.fleet.record([too_early])


async def test_a_worker_has_at_most_one_open_segment(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    assert life.segment is not None
    second = replace(life.segment, seq=1, phase=Phase.START)
    with pytest.raises(InvariantBroken, match="SegmentOpened 1"):
        await store.fleet.record([SegmentOpened(segment=second)])


async def test_a_closed_segment_never_changes(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    assert life.segment is not None
    ended = replace(life.segment, end_boot_ns=clock.boot + 5, close_reason="ready")
    await store.fleet.record([SegmentClosed(segment=ended)])
    with pytest.raises(InvariantBroken, match="no open setup segment 0"):
        await store.fleet.record([SegmentClosed(segment=replace(ended, end_boot_ns=clock.boot + 6))])


@pytest.mark.parametrize(
    "changes", [{"phase": Phase.ACTIVE}, {"start_boot_ns": 1}, {"boot_id": "boot-2"}, {"seq": 4}]
)
async def test_closing_a_segment_changes_nothing_but_its_end(
    store: Store, clock: HandClock, changes: dict[str, object]
) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    assert life.segment is not None
    other = replace(life.segment, end_boot_ns=clock.boot + 5, **changes)  # type: ignore[arg-type]
    with pytest.raises(InvariantBroken):
        await store.fleet.record([SegmentClosed(segment=other)])
    assert (await store.fleet.load_fleet()).open_segments == (life.segment,)


async def test_a_segment_is_not_closed_without_an_end(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    assert life.segment is not None
    with pytest.raises(InvariantBroken, match="without an end"):
        await store.fleet.record([SegmentClosed(segment=life.segment)])


async def test_changes_are_written_whole_or_not_at_all(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    _after, move = moved(life.worker, WorkerState.PULLING)
    event = EventRecorded(kind="worker.pulling", at_ms=1)
    missing = LeaseClosed(gpu_uuid=GPU_A, worker_id=life.worker.id, at_boot_ns=1)
    with pytest.raises(InvariantBroken):
        await store.fleet.record([move, event, missing])
    assert (await store.fleet.load_fleet()).workers == (life.worker,)
    assert await store.reads.list_events() == ()


async def test_a_refused_change_leaves_its_neighbours_of_the_same_moment_alone(
    store: Store, clock: HandClock
) -> None:
    life = await Life(store, clock, 1).begin()
    _after, move = moved(life.worker, WorkerState.READY, address="10.0.0.2")
    writes = [
        store.fleet.record([EventRecorded(kind="a.first", at_ms=1)]),
        store.fleet.record([replace(move, from_generation=9)]),
        store.fleet.record([EventRecorded(kind="a.second", at_ms=2)]),
    ]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), InvariantBroken, type(None)]
    assert [event.kind for event in await store.reads.list_events()] == ["a.first", "a.second"]


async def test_a_worker_of_an_unknown_revision_is_refused(store: Store) -> None:
    with pytest.raises(InvariantBroken, match="WorkerInserted of wk_"):
        await store.fleet.record([WorkerInserted(worker=a_worker())])


async def test_a_ready_worker_has_an_address(store: Store) -> None:
    ready = a_worker(state=WorkerState.READY, address="")
    with pytest.raises(InvariantBroken):
        await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), WorkerInserted(worker=ready)])


async def test_a_worker_that_still_pulls_holds_no_gpu(store: Store) -> None:
    pulling = a_worker(state=WorkerState.PULLING, gpu_uuids=(GPU_A,))
    with pytest.raises(InvariantBroken):
        await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), WorkerInserted(worker=pulling)])


async def test_a_lease_of_an_unknown_worker_is_refused(store: Store) -> None:
    lease = LeaseOpened(gpu_uuid=GPU_A, worker_id=WorkerId("wk_none"), boot_id="b", at_boot_ns=1)
    with pytest.raises(InvariantBroken, match="LeaseOpened contradicts"):
        await store.fleet.record([lease])


async def test_gpu_health_is_kept_and_replaced(store: Store) -> None:
    gpu = Gpu(uuid=GPU_A, name="H100", memory_mib=81_559, index=3, numa_node=1, cpus="0-7", mig_parent=GPU_B)
    sick = GpuStatus(gpu=gpu, health=GpuHealth.QUARANTINED, reason="memory not returned", since_ms=5)
    well = replace(sick, health=GpuHealth.HEALTHY, reason="", since_ms=9)
    await store.fleet.record([GpuHealthSaved(status=sick)])
    assert (await store.fleet.load_fleet()).gpu_statuses == (sick,)
    await store.fleet.record([GpuHealthSaved(status=well)])
    assert (await store.fleet.load_fleet()).gpu_statuses == (well,)


async def test_the_last_heartbeat_counts(store: Store) -> None:
    for n in (1, 2, 3):
        await store.fleet.record([HeartbeatWritten(boot_id="b", boot_ns=n, wall_ms=n * 10)])
    assert (await store.fleet.load_fleet()).heartbeat == ("b", 3, 30)


async def test_recording_nothing_is_nothing(store: Store) -> None:
    before = store.stats
    await store.fleet.record([])
    assert store.stats == before


async def test_a_cancelled_caller_neither_loses_nor_tears_its_write(store: Store) -> None:
    changes = [EventRecorded(kind="a.one", at_ms=1), EventRecorded(kind="a.two", at_ms=2)]
    tasks = [asyncio.create_task(store.fleet.record(changes)) for _ in range(20)]
    await asyncio.sleep(0)  # every write is queued now, and none committed
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.fleet.record([EventRecorded(kind="a.last", at_ms=3)])
    kinds = [event.kind for event in await store.reads.list_events(limit=1000)]
    assert kinds == ["a.one", "a.two"] * 20 + ["a.last"]


async def test_what_is_queued_when_the_store_closes_is_written(tmp_path: Path, clock: HandClock) -> None:
    async with opened("file", tmp_path, clock) as store:
        tasks = [
            asyncio.create_task(store.fleet.record([EventRecorded(kind="a.b", at_ms=n)])) for n in range(600)
        ]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*tasks) == [None] * 600
        with pytest.raises(Unavailable, match="stopping"):
            await store.fleet.record([EventRecorded(kind="a.b", at_ms=0)])
    async with opened("file", tmp_path, clock) as store:
        assert len(await store.reads.list_events(limit=1000)) == 600


async def test_everything_is_there_after_opening_again(tmp_path: Path, clock: HandClock) -> None:
    async with opened("file", tmp_path, clock) as store:
        life = await Life(store, clock, 1).begin()
        await life.reserve(GPU_A)
        clock.advance(S)
        await life.go(WorkerState.CREATING, Phase.SETUP)
        before = await store.fleet.load_fleet()
        install_id = store.install_id
    async with opened("file", tmp_path, clock) as store:
        assert await store.fleet.load_fleet() == before
        assert store.install_id == install_id


async def test_writes_that_arrive_together_share_commits(store: Store) -> None:
    before = store.stats
    await asyncio.gather(*(store.fleet.record([EventRecorded(kind="a.b", at_ms=n)]) for n in range(512)))
    assert store.stats.operations - before.operations == 512
    assert store.stats.commits - before.commits <= 8


async def test_starts_are_kept_by_phase_and_the_newest_of_each_endpoint_come_back(store: Store) -> None:
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint("llm"))])
    starts = [_a_start(number, "llm") for number in range(25)] + [_a_start(99, "gone")]
    await store.fleet.record([ColdStartSaved(start=start) for start in starts])
    answered = replace(starts[24], phases_ns={**starts[24].phases_ns, StartPhase.FIRST_BYTE: 5})
    await store.fleet.record([ColdStartSaved(start=answered)])
    assert (await store.fleet.load_fleet()).cold_starts == (*starts[5:24], answered)
    assert await store.reads.cold_starts("llm", limit=2) == (answered, starts[23])
    assert await store.reads.cold_starts("nobody") == ()


async def test_only_the_newest_five_hundred_starts_of_an_endpoint_stay(store: Store) -> None:
    starts = [_a_start(number, "llm") for number in range(510)]
    await store.fleet.record([ColdStartSaved(start=start) for start in [_a_start(0, "api"), *starts]])
    kept = await store.reads.cold_starts("llm", limit=1000)
    assert kept == tuple(reversed(starts[10:]))
    assert len(await store.reads.cold_starts("api")) == 1


def _a_start(number: int, endpoint: str) -> ColdStart:
    return ColdStart(
        worker_id=WorkerId(f"wk_{endpoint}_{number:04}"),
        endpoint=EndpointName(endpoint),
        revision=Revision("r1"),
        at_ms=1000 + number,
        phases_ns={StartPhase.CREATE: 10 + number, StartPhase.LISTEN: 7},
    )
