"""What reads of the store promise: listings by page, usage, and an audit that finds what is wrong."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gpud.core.energy import MINUTES_KEPT, Holder
from gpud.core.gpu import GpuSlice
from gpud.core.key_shares import PUBLIC
from gpud.core.metering import Phase
from gpud.core.pricing import GpuPrice, Tariff
from gpud.core.records import (
    EndpointSaved,
    EnergyDrawn,
    EventRecorded,
    GpuWatched,
    HeartbeatWritten,
    WorkerInserted,
)
from gpud.core.unleased import Watch
from gpud.core.usage import FINER_NS, MINUTE_NS, date_line
from gpud.core.worker import WorkerState
from gpud.ports.store import UsageBy
from tests.contract.store_rig import (
    GPU_A,
    GPU_B,
    KINDS,
    HandClock,
    Life,
    S,
    a_worker,
    an_endpoint,
    moved,
    opened,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store
    from gpud.core.ids import GpuUuid
    from gpud.core.metering import Segment
    from gpud.ports.store import EventRow, UsageRow

pytestmark = pytest.mark.long


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, clock) as store:
        yield store


async def _events(store: Store, count: int) -> None:
    for n in range(count):
        event = EventRecorded(
            kind="worker.seen",
            at_ms=n,
            endpoint=("llm", "embed")[n % 2],
            worker_id=f"wk_{n % 3}",
            facts={"n": n},
        )
        await store.fleet.record([event])


async def test_workers_are_listed_newest_first_page_by_page(store: Store) -> None:
    workers = [a_worker(number) for number in range(1, 8)]
    await store.fleet.record(
        [EndpointSaved(endpoint=an_endpoint()), *(WorkerInserted(worker=worker) for worker in workers)]
    )
    newest_first = tuple(reversed(workers))
    assert await store.reads.list_workers() == newest_first
    first = await store.reads.list_workers(limit=3)
    assert first == newest_first[:3]
    second = await store.reads.list_workers(limit=3, after=first[-1].id)
    assert second == newest_first[3:6]
    assert await store.reads.list_workers(limit=3, after=second[-1].id) == newest_first[6:]
    assert await store.reads.list_workers(after=newest_first[-1].id) == ()


async def test_workers_made_in_the_same_millisecond_are_all_listed(store: Store) -> None:
    workers = [a_worker(number, created_at_ms=5) for number in range(1, 8)]
    await store.fleet.record(
        [EndpointSaved(endpoint=an_endpoint()), *(WorkerInserted(worker=worker) for worker in workers)]
    )
    seen: list[str] = []
    after = ""
    while page := await store.reads.list_workers(limit=2, after=after):
        seen += [worker.id for worker in page]
        after = page[-1].id
    assert sorted(seen) == sorted(worker.id for worker in workers)


async def test_workers_are_listed_by_endpoint_and_without_those_gone(store: Store) -> None:
    other = an_endpoint("embed")
    mine, theirs = a_worker(1), a_worker(2, other)
    gone, move = moved(a_worker(3), WorkerState.GONE)
    await store.fleet.record(
        [
            EndpointSaved(endpoint=an_endpoint()),
            EndpointSaved(endpoint=other),
            WorkerInserted(worker=mine),
            WorkerInserted(worker=theirs),
            WorkerInserted(worker=a_worker(3)),
            move,
        ]
    )
    assert await store.reads.list_workers(endpoint="llm") == (mine,)
    assert await store.reads.list_workers(endpoint="llm", include_gone=True) == (gone, mine)
    assert await store.reads.list_workers(endpoint="embed") == (theirs,)
    assert await store.reads.list_workers(endpoint="none") == ()


async def test_events_come_back_in_order_with_their_facts(store: Store) -> None:
    event = EventRecorded(
        kind="image.pulled", at_ms=9, endpoint="llm", facts={"bytes": 5, "list": [1, "ä"], "none": None}
    )
    await store.fleet.record([event])
    (row,) = await store.reads.list_events()
    assert (row.kind, row.at_ms, row.endpoint, row.worker_id) == ("image.pulled", 9, "llm", "")
    assert row.facts == {"bytes": 5, "list": [1, "ä"], "none": None}


@pytest.mark.parametrize(
    ("endpoint", "worker_id"), [("", ""), ("llm", ""), ("", "wk_1"), ("embed", "wk_2"), ("none", "wk_1")]
)
async def test_events_are_paged_both_ways_under_every_filter(
    store: Store, endpoint: str, worker_id: str
) -> None:
    await _events(store, 60)
    everything = await store.reads.list_events(limit=1000)
    assert len(everything) == 60
    wanted = [
        event
        for event in everything
        if endpoint in ("", event.endpoint) and worker_id in ("", event.worker_id)
    ]
    seen: list[EventRow] = []
    after_seq = 0
    while page := await store.reads.list_events(
        endpoint=endpoint, worker_id=worker_id, after_seq=after_seq, limit=7
    ):
        seen += page
        after_seq = page[-1].seq
    assert seen == wanted
    seen, before_seq = [], 0
    while page := await store.reads.latest_events(
        endpoint=endpoint, worker_id=worker_id, before_seq=before_seq, limit=7
    ):
        seen += page
        before_seq = page[-1].seq
    assert seen == wanted[::-1]


async def test_a_page_is_bounded_whatever_is_asked_for(store: Store) -> None:
    await asyncio.gather(*(store.fleet.record([EventRecorded(kind="a.b", at_ms=n)]) for n in range(1100)))
    assert len(await store.reads.list_events(limit=10**9)) == 1000
    assert len(await store.reads.list_events(limit=-5)) == 1


async def test_a_life_is_billed_from_its_start_to_its_stop(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.run(GPU_A, ready_ns=10 * S + 1)
    (row,) = await store.reads.usage(by=UsageBy.WORKER)
    assert row.key == life.worker.id
    assert (row.gpu_ns, row.wall_ns, row.billed_seconds, row.sessions) == (12 * S + 1, 12 * S + 1, 13, 1)
    assert row.phases_ns == {"setup": S, "start": 2 * S, "idle": 10 * S + 1, "stop": S, "release": S}
    assert await store.reads.audit() == ()


async def test_an_open_segment_counts_up_to_now(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A, GPU_B)
    await life.go(WorkerState.STARTING, Phase.START)
    clock.advance(3 * S)
    (row,) = await store.reads.usage(by=UsageBy.ENDPOINT)
    assert (row.key, row.gpu_ns, row.billed_seconds) == ("llm", 6 * S, 6)
    clock.advance(5)
    (row,) = await store.reads.usage(by=UsageBy.ENDPOINT)
    assert row.gpu_ns == 6 * S + 10


async def test_after_a_reboot_an_open_segment_counts_up_to_the_last_heartbeat(
    store: Store, clock: HandClock
) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    await life.go(WorkerState.STARTING, Phase.START)
    await store.fleet.record(
        [HeartbeatWritten(boot_id=clock.boot_id, boot_ns=clock.boot + 4 * S, wall_ms=clock.at_ms() + 4000)]
    )
    clock.boot_id, clock.boot = "boot-2", 7 * S
    (row,) = await store.reads.usage(by=UsageBy.ENDPOINT)
    assert row.gpu_ns == 4 * S


async def test_a_stepped_wall_clock_bills_nobody(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    await life.go(WorkerState.STARTING, Phase.START)
    clock.wall += 365 * 86_400 * S
    clock.advance(S)
    await life.flip(Phase.IDLE)
    clock.wall -= 800 * 86_400 * S
    clock.advance(S)
    for by in (UsageBy.ENDPOINT, UsageBy.DAY, UsageBy.HOUR, UsageBy.GPU):
        assert sum(row.gpu_ns for row in await store.reads.usage(by=by)) == 2 * S
    assert await store.reads.audit() == ()


async def test_slices_of_a_gpu_are_metered_as_the_parts_they_are_and_sum_to_it(
    store: Store, clock: HandClock
) -> None:
    for number, mib in enumerate((1, 2, 4), start=1):  # of 7: none is a round part
        life = await Life(store, clock, number, an_endpoint(f"e{number}")).begin()
        await life.run(GPU_A, ready_ns=7 * S, gpu_slice=GpuSlice(memory_mib=mib, of_mib=7))
    by_endpoint = {row.key: row.gpu_ns for row in await store.reads.usage(by=UsageBy.ENDPOINT)}
    billable_ns = 9 * S  # two of the start, seven ready
    for number, mib in enumerate((1, 2, 4), start=1):
        exact_ns = billable_ns * mib / 7
        assert exact_ns - billable_ns * 1e-6 <= by_endpoint[f"e{number}"] <= exact_ns
    (gpu,) = await store.reads.usage(by=UsageBy.GPU)
    assert gpu.gpu_ns <= billable_ns, "shares of one GPU are never more than the GPU"
    assert gpu.gpu_ns == pytest.approx(billable_ns, rel=3e-6)
    assert gpu.billed_seconds == 2 + 3 + 6, "each session's part, rounded up once"
    assert await store.reads.audit() == ()


async def test_usage_by_every_line_has_the_same_total(store: Store, clock: HandClock) -> None:
    embed = an_endpoint("embed")
    for number, (endpoint, gpus) in enumerate(
        [(None, (GPU_A,)), (embed, (GPU_A, GPU_B)), (None, (GPU_B,)), (embed, ())], start=1
    ):
        life = await Life(store, clock, number, endpoint).begin()
        await life.run(*gpus, ready_ns=9 * 3600 * S + number)
    totals = {}
    for by in UsageBy:
        rows = await store.reads.usage(by=by)
        totals[by] = sum(row.gpu_ns for row in rows)
    assert len(set(totals.values())) == 1
    assert [row.key for row in await store.reads.usage(by=UsageBy.ENDPOINT)] == ["embed", "llm"]
    assert [row.key for row in await store.reads.usage(by=UsageBy.GPU)] == [GPU_A, GPU_B]
    days = [row.key for row in await store.reads.usage(by=UsageBy.DAY)]
    assert days == ["2025-11-21", "2025-11-22", "2025-11-23"]
    assert await store.reads.audit() == ()


async def _busy_life(life: Life, clock: HandClock, numbers: random.Random, *gpus: GpuUuid) -> None:
    """Flips between requests of several keys and none, over hours, and a drain with requests."""
    await life.reserve(*gpus)
    clock.advance(numbers.randrange(3 * S))
    await life.go(WorkerState.CREATING, Phase.SETUP)
    await life.go(WorkerState.STARTING, Phase.START, address="10.0.0.9", container_started_ns=clock.wall)
    clock.advance(numbers.randrange(200 * S))
    await life.go(WorkerState.READY, Phase.IDLE, ready_s=clock.now_s())
    for _ in range(numbers.randrange(1, 8)):
        clock.advance(numbers.randrange(1, 2400 * S))
        await life.flip(Phase.ACTIVE)
        passed_ns = numbers.randrange(1, 4000 * S)
        clock.advance(passed_ns)
        keys = numbers.sample(["key_a", "key_b", PUBLIC], numbers.randrange(4))
        life.had_ns = {key: numbers.randrange(passed_ns) for key in keys}
        await life.flip(Phase.IDLE)
    await life.go(WorkerState.DRAINING, Phase.DRAIN)
    clock.advance(90 * S)
    life.had_ns = {"key_a": 7 * S + 1}
    await life.go(WorkerState.STOPPING, Phase.STOP)
    clock.advance(numbers.randrange(9 * S))
    await life.go(WorkerState.RELEASING, Phase.RELEASE, container_finished_ns=clock.wall, exit_code=0)
    await life.give_back()


def _phases(rows: Iterable[UsageRow]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found.update(row.phases_ppm_ns)
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_sums_by_every_dimension_agree_to_the_nanosecond(
    seed: int, store: Store, clock: HandClock
) -> None:
    numbers = random.Random(seed)
    watches = [
        Watch(
            gpu_uuid=gpu,
            boot_id=clock.boot_id,
            start_boot_ns=clock.boot_ns(),
            end_boot_ns=clock.boot_ns(),
            start_wall_ms=clock.at_ms(),
        )
        for gpu in (GPU_A, GPU_B)
    ]
    for number in range(1, 4):
        life = await Life(store, clock, number, numbers.choice([None, an_endpoint("embed")])).begin()
        await _busy_life(life, clock, numbers, *numbers.choice([(GPU_A,), (GPU_B,), (GPU_A, GPU_B), ()]))
    last = await Life(store, clock, 9).begin()
    await last.reserve(GPU_A)
    await last.go(WorkerState.CREATING, Phase.SETUP)
    await last.go(WorkerState.STARTING, Phase.START, address="10.0.0.9", container_started_ns=clock.wall)
    await last.go(WorkerState.READY, Phase.ACTIVE, ready_s=clock.now_s())
    clock.advance(100 * S + 3)
    assert last.segment is not None
    running = {last.worker.id: (last.segment.seq, {"key_b": 40 * S, "key_c": 2 * S})}
    await store.fleet.record(
        [GpuWatched(watch=replace(watch, end_boot_ns=clock.boot_ns())) for watch in watches]
    )
    await store.fleet.record(_energy(watches[0].start_wall_ms, clock.at_ms(), last, numbers))
    until_ms = clock.at_ms() + 1
    begin_ms, fine_ms = until_ms - 20 * 3_600_000, until_ms - 1_500_000
    cuts = sorted(numbers.randrange(begin_ms, fine_ms) for _ in range(3))
    for since_ms, before_ms in ((0, 0), *pairwise((begin_ms, *cuts, fine_ms, until_ms))):
        totals, drawn = {}, {}
        for by in UsageBy:
            if since_ms == fine_ms or by not in FINER_NS:
                rows = await store.reads.usage(by=by, since_ms=since_ms, until_ms=before_ms, running=running)
                totals[by] = _phases(rows)
                drawn[by] = sum(row.energy_mj for row in rows), sum(row.sampled_mj for row in rows)
        assert all(found == totals[UsageBy.ENDPOINT] for found in totals.values())
        assert set(drawn.values()) == {drawn[UsageBy.ENDPOINT]}
    watched_ns = 2 * (clock.boot_ns() - watches[0].start_boot_ns)
    (unleased,) = (row for row in await store.reads.usage(by=UsageBy.WORKER) if row.key == "(unleased)")
    workers = await store.reads.usage(by=UsageBy.WORKER)
    assert sum(_phases(workers).values()) == watched_ns * 1_000_000
    assert (
        unleased.phases_ns["unleased"]
        + sum(sum(row.phases_ns.values()) for row in workers if row.key != "(unleased)")
        == watched_ns
    )
    by_key = {row.key: row for row in await store.reads.usage(by=UsageBy.KEY, running=running)}
    assert by_key["key_c"].gpu_ns == (100 * S + 3) - (100 * S + 3) * 40 // 42
    nobodys = {"(idle)", "(starting)", "(draining)", "(stopping)", "(unknown)", "(unleased)"}
    assert set(by_key) <= nobodys | {"key_a", "key_b", "key_c", PUBLIC}
    assert await store.reads.audit() == ()


def _energy(since_ms: int, until_ms: int, life: Life, numbers: random.Random) -> list[EnergyDrawn]:
    """What both GPUs drew in each hour, of workers that there were and of nobody; partly by the minute."""
    users = [Holder(), Holder(life.worker.id, life.worker.endpoint, Phase.ACTIVE)]
    users += [
        Holder(a_worker(number).id, "llm", phase) for number in (1, 2) for phase in (Phase.IDLE, Phase.ACTIVE)
    ]
    return [
        EnergyDrawn(gpu_uuid=gpu, holder=user, hour=hour, mj=mj, sampled_mj=mj // 3, minute=minute)
        for hour in range(since_ms // 3_600_000, until_ms // 3_600_000 + 1)
        for gpu in (GPU_A, GPU_B)
        for user in users
        for minute in (None, hour * 60 + numbers.randrange(60), hour * 60 + 59)
        if (mj := numbers.randrange(10**9))
    ]


async def test_consecutive_periods_share_out_energy_without_rest(store: Store, clock: HandClock) -> None:
    numbers, began_ms = random.Random(3), clock.at_ms()
    life = await Life(store, clock, 1).begin()
    await _busy_life(life, clock, numbers, GPU_A)
    await store.fleet.record(_energy(began_ms, clock.at_ms(), life, numbers))
    for by in (UsageBy.KEY, UsageBy.PHASE, UsageBy.HOUR, UsageBy.MINUTE):
        whole = sum(row.energy_mj for row in await store.reads.usage(by=by))
        assert whole > 0
        parts = 0
        cuts = [
            1,
            began_ms + 1_234_567,
            began_ms + 3_600_000,
            began_ms + 5_000_001,
            clock.at_ms() + 3_600_000,
        ]
        for since_ms, until_ms in pairwise(cuts):
            rows = await store.reads.usage(by=by, since_ms=since_ms, until_ms=until_ms)
            parts += sum(row.energy_mj for row in rows)
        assert parts == whole


async def test_energy_is_told_by_the_minute_as_far_as_it_was_seen_and_never_by_the_second(
    store: Store, clock: HandClock
) -> None:
    minute = clock.at_ms() // 60_000 // 60 * 60 + 30
    facts: dict[str, Any] = {"gpu_uuid": GPU_A, "holder": Holder(), "hour": minute // 60}
    seen = [
        EnergyDrawn(**facts, mj=6_000, minute=minute),
        EnergyDrawn(**facts, mj=3_000, sampled_mj=3_000, minute=minute + 1),
        EnergyDrawn(**facts, mj=1_000),
    ]
    await store.fleet.record(seen)
    span: dict[str, Any] = {"since_ms": minute // 60 * 3_600_000, "until_ms": (minute // 60 + 1) * 3_600_000}
    by_minute = {row.key: row.energy_mj for row in await store.reads.usage(by=UsageBy.MINUTE, **span)}
    first, second = (date_line(each * MINUTE_NS, UsageBy.MINUTE) for each in (minute, minute + 1))
    assert by_minute == {first: 6_000, second: 3_000, "(untimed)": 1_000}
    (untimed,) = await store.reads.usage(by=UsageBy.SECOND, **span)
    assert (untimed.key, untimed.energy_mj, untimed.sampled_mj) == ("(untimed)", 10_000, 3_000)
    cut: dict[str, Any] = {"since_ms": minute * 60_000 + 15_000, "until_ms": minute * 60_000 + 90_000}
    (gpu,) = await store.reads.usage(by=UsageBy.GPU, **cut)
    assert (gpu.energy_mj, gpu.sampled_mj) == (4_500 + 1_500 + 21, 1_500)
    after = minute + MINUTES_KEPT + 2
    await store.fleet.record([EnergyDrawn(**facts | {"hour": after // 60}, mj=1, minute=after)])
    (untimed,) = await store.reads.usage(by=UsageBy.MINUTE, **span)
    assert (untimed.key, untimed.energy_mj) == ("(untimed)", 10_000)


async def test_periods_share_out_what_keys_used_without_rest(store: Store, clock: HandClock) -> None:
    began_ms = clock.at_ms()
    await _busy_life(await Life(store, clock, 1).begin(), clock, random.Random(5), GPU_A)
    whole = {row.key: row.gpu_ns for row in await store.reads.usage(by=UsageBy.KEY)}
    parts: Counter[str] = Counter()
    cuts = [began_ms, began_ms + 1_234_567, began_ms + 3_600_000, began_ms + 9_999_999, clock.at_ms() + 1]
    for since_ms, until_ms in pairwise(cuts):
        for row in await store.reads.usage(by=UsageBy.KEY, since_ms=since_ms, until_ms=until_ms):
            parts[row.key] += row.gpu_ns
    assert dict(+parts) == {key: ns for key, ns in whole.items() if ns}


async def test_usage_of_one_endpoint_leaves_the_others_out(store: Store, clock: HandClock) -> None:
    await (await Life(store, clock, 1).begin()).run(GPU_A)
    await (await Life(store, clock, 2, an_endpoint("embed")).begin()).run(GPU_A)
    for by in UsageBy:
        rows = await store.reads.usage(by=by, endpoint="embed")
        assert sum(row.gpu_ns for row in rows) == 12 * S
        assert sum(row.sessions for row in rows) == int(by not in (UsageBy.PHASE, UsageBy.KEY))
    assert await store.reads.usage(by=UsageBy.DAY, endpoint="none") == ()


async def test_periods_share_out_usage_without_rest(store: Store, clock: HandClock) -> None:
    begin_ms = clock.at_ms()
    await (await Life(store, clock, 1).begin()).run(GPU_A, ready_ns=100 * S)
    clock.advance(50 * S)
    await (await Life(store, clock, 2).begin()).run(GPU_A, ready_ns=100 * S)
    cuts = [0, begin_ms + 1, begin_ms + 60_000, begin_ms + 160_000, begin_ms + 200_001, 0]
    rows = [
        row
        for since_ms, until_ms in pairwise(cuts)
        for row in await store.reads.usage(by=UsageBy.ENDPOINT, since_ms=since_ms, until_ms=until_ms)
    ]
    (whole,) = await store.reads.usage(by=UsageBy.ENDPOINT)
    assert sum(row.gpu_ns for row in rows) == whole.gpu_ns == 204 * S
    assert sum(row.billed_seconds for row in rows) == whole.billed_seconds == 204
    assert sum(row.sessions for row in rows) == whole.sessions == 2


@pytest.mark.parametrize("unit_ms", [1, 1000, 1_800_000, 3_600_000])
async def test_any_period_counts_what_lies_in_it(store: Store, clock: HandClock, unit_ms: int) -> None:
    """Every period is compared with a plain sum over the segments that were written."""
    begin_ms = clock.at_ms()
    spans: list[tuple[int, int]] = []
    for number, hold_s in enumerate((0, 90, 4000, 20_000), start=1):
        life = await Life(store, clock, number).begin()
        await life.reserve(GPU_A)
        for phase in (Phase.IDLE, Phase.ACTIVE, Phase.IDLE):
            started_ns = clock.wall
            await life.flip(phase)
            clock.advance(hold_s * S + 123_456_789)
            spans.append((started_ns - started_ns % 1_000_000, clock.wall - started_ns))
        await life.give_back()
    moments = [begin_ms + unit_ms * n for n in (0, 1, 2, 3, 5, 8, 13, 21, 34)]
    for since_ms in moments:
        for until_ms in moments:
            rows = await store.reads.usage(by=UsageBy.ENDPOINT, since_ms=since_ms, until_ms=until_ms)
            expected_ns = sum(
                max(0, min(start_ns + ns, until_ms * 1_000_000) - max(start_ns, since_ms * 1_000_000))
                for start_ns, ns in spans
            )
            assert sum(row.gpu_ns for row in rows) == expected_ns
    assert await store.reads.audit() == ()


async def test_one_worker_is_found_live_or_gone(store: Store, clock: HandClock) -> None:
    life = await Life(store, clock, 1).begin()
    assert await store.reads.worker(life.worker.id) == life.worker
    await life.run(GPU_A)
    assert await store.reads.worker(life.worker.id) == life.worker
    assert await store.reads.worker("wk_none") is None


async def test_more_workers_than_one_part_holds_are_all_audited(tmp_path: Path, clock: HandClock) -> None:
    async with opened("file", tmp_path, clock) as store:
        lives = [await Life(store, clock, number).begin() for number in range(1, 251)]
        for life in lives:
            await life.reserve()
            await life.give_back()
        assert await store.reads.audit() == ()
        other = sqlite3.connect(tmp_path / "data" / "gpud.db")
        other.execute("UPDATE usage_segment SET seq = 5")
        other.commit()
        other.close()
        assert len(await store.reads.audit()) == 250


SABOTAGE = {
    "a sum is too high": "UPDATE usage_hour SET ns = ns + 1 WHERE phase = 'start'",
    "a sum is lost": "DELETE FROM usage_hour WHERE phase = 'idle'",
    "a sum is of another hour": "UPDATE usage_hour SET hour = hour + 1 WHERE phase = 'idle'",
    "a row of a segment is lost": "DELETE FROM usage_segment WHERE seq = 1",
    "a segment ends a nanosecond early": "UPDATE usage_segment SET end_boot_ns = end_boot_ns - 1 "
    "WHERE seq = 3",
    "a segment ends a nanosecond late": "UPDATE usage_segment SET end_boot_ns = end_boot_ns + 1 "
    "WHERE seq = 2",
    "the last segment is open again": "UPDATE usage_segment SET end_boot_ns = NULL, close_reason = '' "
    "WHERE seq = (SELECT max(seq) FROM usage_segment)",
    "a lease ends late": "UPDATE gpu_lease SET released_boot_ns = released_boot_ns + 1",
    "a lease is open again": "UPDATE gpu_lease SET released_boot_ns = NULL",
    "a lease is lost": "DELETE FROM gpu_lease",
    "a segment names another GPU": "UPDATE usage_segment SET gpu_uuids = '[\"GPU-x\"]' WHERE seq = 2",
    "a second lease overlaps": "INSERT INTO gpu_lease (gpu_uuid, worker_id, boot_id, leased_boot_ns, "
    "released_boot_ns) SELECT gpu_uuid, worker_id, boot_id, leased_boot_ns + 1, released_boot_ns "
    "FROM gpu_lease",
    "the worker is ready still": "UPDATE worker SET state = 'ready'",
    "a row's parent is missing": "INSERT INTO usage_segment (worker_id, seq, phase, endpoint, revision, "
    "gpu_uuids, boot_id, start_boot_ns, end_boot_ns, start_wall_ms, close_reason, estimated) "
    "VALUES ('wk_none', 0, 'setup', 'llm', 'r', '[]', 'b', 1, 2, 3, '', 0)",
}


@pytest.mark.parametrize("statement", SABOTAGE.values(), ids=SABOTAGE.keys())
async def test_the_audit_finds_what_was_tampered_with(
    tmp_path: Path, clock: HandClock, statement: str
) -> None:
    async with opened("file", tmp_path, clock) as store:
        await (await Life(store, clock, 1).begin()).run(GPU_A)
        assert await store.reads.audit() == ()
    other = sqlite3.connect(tmp_path / "data" / "gpud.db")
    other.execute("PRAGMA foreign_keys = OFF")
    other.execute("DROP TRIGGER gpu_lease_stays")
    other.execute(statement)
    other.commit()
    other.close()
    async with opened("file", tmp_path, clock) as store:
        breaches = await store.reads.audit()
    assert breaches
    assert all(breach.endswith(".") for breach in breaches)


async def test_reads_see_what_was_just_written(store: Store) -> None:
    for n in range(20):
        await store.fleet.record([EventRecorded(kind="a.b", at_ms=n)])
        (latest,) = await store.reads.latest_events(limit=1)
        assert latest.at_ms == n


async def test_a_moved_worker_is_listed_in_its_new_state(store: Store) -> None:
    worker = a_worker()
    after, move = moved(worker, WorkerState.PULLING)
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), WorkerInserted(worker=worker), move])
    assert await store.reads.list_workers() == (replace(after, generation=1),)


async def test_minutes_seconds_and_phases_sum_to_the_same_as_hours(store: Store, clock: HandClock) -> None:
    for number in (1, 2):
        life = await Life(store, clock, number).begin()
        await life.run(GPU_A, ready_ns=70 * S + number)
    life = await Life(store, clock, 3).begin()
    await life.reserve(GPU_B)
    await life.go(WorkerState.STARTING, Phase.START)
    clock.advance(5 * S + 5)
    since_ms, until_ms = clock.at_ms() - 120_000, clock.at_ms() - 3_000
    sums = {}
    for by in UsageBy:
        rows = await store.reads.usage(by=by, since_ms=since_ms, until_ms=until_ms)
        sums[by] = (sum(row.gpu_ns for row in rows), sum(sum(row.phases_ns.values()) for row in rows))
    assert len(set(sums.values())) == 1, sums
    seconds = await store.reads.usage(by=UsageBy.SECOND, since_ms=since_ms, until_ms=until_ms)
    assert len(seconds) > 60
    assert max(sum(row.phases_ns.values()) for row in seconds) <= 2 * S
    phases = await store.reads.usage(by=UsageBy.PHASE)
    assert {row.key: row.gpu_ns for row in phases}["idle"] == 140 * S + 3


async def test_a_price_that_changes_within_the_hour_counts_from_its_nanosecond(
    store: Store, clock: HandClock
) -> None:
    life = await Life(store, clock, 1).begin()
    began_ns = clock.wall
    await life.run(GPU_A, ready_ns=100 * S)
    new = GpuPrice(gpu="H100", gpu_hour_micros=7_200_000_000, since_ns=began_ns + 53 * S)
    old = GpuPrice(gpu="H100", gpu_hour_micros=3_600_000_000)
    tariff = Tariff(prices=(new, old), models={GPU_A: "NVIDIA H100 PCIe"})
    for by in UsageBy:
        rows = await store.reads.usage(by=by, tariff=tariff)
        assert sum(row.gpu_ns for row in rows) == 102 * S
        # One second of set-up and 52 billed ones at the old price, 50 at the new.
        assert sum(row.cost_micros for row in rows) == 52 * 1_000_000 + 50 * 2_000_000


async def test_closed_segments_are_exported_by_worker_and_number_and_never_twice(
    store: Store, clock: HandClock
) -> None:
    for number in (1, 2):
        await (await Life(store, clock, number).begin()).run(GPU_A)
    open_life = await Life(store, clock, 3, an_endpoint("other")).begin()
    await open_life.reserve(GPU_B)
    found: list[Segment] = []
    after = ("", -1)
    while page := await store.reads.segments(after=after, limit=4):
        found += page
        after = (page[-1].worker_id, page[-1].seq)
    names = [(segment.worker_id, segment.seq) for segment in found]
    assert names == sorted(set(names))
    assert len(names) == 12
    assert sum(segment.duration_ns for segment in found) == 2 * 15 * S
    assert await store.reads.segments(endpoint="other") == ()
    last_ms = max(segment.start_wall_ms for segment in found)
    assert [segment.phase for segment in await store.reads.segments(since_ms=last_ms + 1)] == [Phase.RELEASE]
