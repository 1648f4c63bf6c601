"""The job store keeps what it promises, on a file and in memory alike."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.sqlite.blobs import INLINE_BYTES_MAX, BlobFiles
from gpud.core.job import Delivered, Ending, JobState, cancelled, expired, redriven
from gpud.core.job_request import DAY_MS
from gpud.core.ready_jobs import place_of
from gpud.errors import IdempotencyMismatch, StoreUnusable
from gpud.ports.jobs import IdempotencyClaim, JobQuery, Payload
from tests.contract.job_rig import INPUT, KEPT, LLM, NOW, begin, claim, new_job, submit
from tests.contract.store_rig import KINDS, HandClock, opened

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store
    from gpud.core.job import Job

FAILED = Delivered(ending=Ending.FAILED, error="boom")


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, HandClock()) as store:
        await begin(store)
        yield store


async def settle(store: Store, job: Job, said: Delivered, now_ms: int = NOW) -> Job | None:
    return await store.jobs.settle(job, said, now_ms=now_ms, fraction=0.5, kept=KEPT)


async def complete(store: Store, job: Job, result: bytes = b"1") -> Job | None:
    return await store.jobs.complete(
        job, now_ms=NOW, purge_at_ms=NOW + DAY_MS, result=Payload(content=result)
    )


async def purge(store: Store, now_ms: int) -> tuple[str, ...]:
    return await store.jobs.purge_due(now_ms, limit=10, used_ms=KEPT.used_ms)


async def running(store: Store, job: Job | None = None) -> Job:
    found = await claim(store, await submit(store, job))
    assert found is not None
    return found.job


async def test_a_job_goes_from_acceptance_to_its_result(store: Store) -> None:
    written = await submit(store)
    claimed = await claim(store, written)
    assert claimed is not None
    assert (claimed.job.attempt, claimed.job.deliveries, claimed.payload) == (1, 1, INPUT)
    assert await complete(store, claimed.job, b'"a fox"') is not None
    read = await store.jobs.job(written.id)
    assert read is not None
    assert (read.state, read.worker_id, read.finished_at_ms) == (JobState.COMPLETED, "wk_a", NOW)
    assert await store.jobs.payload(read.seq, "result") == Payload(content=b'"a fox"')
    assert await store.jobs.attempts(read.seq) == ()


async def test_only_one_of_many_claims_of_a_job_succeeds(store: Store) -> None:
    job = await submit(store)
    found = await asyncio.gather(*(claim(store, job) for _ in range(20)))
    assert sum(each is not None for each in found) == 1


async def test_what_a_stale_delivery_says_is_dropped(store: Store) -> None:
    first = await running(store)
    back = await settle(store, first, Delivered(ending=Ending.INTERRUPTED, after_ms=0))
    assert back is not None
    second = await claim(store, back)
    assert second is not None
    assert await complete(store, first) is None
    assert await settle(store, first, FAILED) is None
    assert not await store.jobs.append_chunks(first, [b"x"])
    assert not await store.jobs.put_progress(first, INPUT)
    assert await complete(store, second.job) is not None
    assert await complete(store, second.job) is None


async def test_another_run_of_the_daemon_cannot_end_a_delivery(store: Store) -> None:
    job = await running(store)
    assert await complete(store, replace(job, instance="run-2")) is None


async def test_every_attempt_that_failed_is_told(store: Store) -> None:
    job = await running(store)
    said = Delivered(ending=Ending.WORKER_DIED, error="killed", exit_code=137)
    back = await store.jobs.settle(job, said, now_ms=NOW + 5, fraction=0.5, kept=KEPT, log_tail="CUDA")
    assert back is not None
    (attempt,) = await store.jobs.attempts(job.seq)
    assert (attempt.delivery, attempt.worker_id, attempt.ending) == (1, "wk_a", "worker_died")
    assert (attempt.exit_code, attempt.error, attempt.log_tail) == (137, "killed", "CUDA")


async def test_a_job_that_waits_for_its_retry_is_ready_only_once_its_time_has_come(store: Store) -> None:
    back = await settle(store, await running(store), FAILED)
    assert back is not None
    assert await store.jobs.ready(LLM, None, 10) == ()
    assert await claim(store, back) is None
    assert (await store.jobs.next_times())[0] == back.available_at_ms
    assert await store.jobs.release_due(back.available_at_ms - 1, limit=10) == ()
    (due,) = await store.jobs.release_due(back.available_at_ms, limit=10)
    assert [entry.id for entry in await store.jobs.ready(LLM, None, 10)] == [due.id]


async def test_waiting_jobs_are_read_in_order_from_any_place_on(store: Store) -> None:
    jobs = [await submit(store, new_job(n, priority=n % 3 - 1)) for n in range(9)]
    await submit(store, new_job(99, endpoint="other"))
    ordered = sorted(map(place_of, jobs))
    assert list(await store.jobs.ready(LLM, None, 20)) == ordered
    for at in range(9):
        assert list(await store.jobs.ready(LLM, ordered[at], 4)) == ordered[at + 1 : at + 5]


async def test_a_key_used_again_gives_the_same_job_and_with_another_request_none(store: Store) -> None:
    key = IdempotencyClaim(scope="local/llm", key="k", fingerprint=b"a")
    first, replayed = await store.jobs.accept(new_job(1), INPUT, key)
    assert not replayed
    together = await asyncio.gather(*(store.jobs.accept(new_job(n), INPUT, key) for n in range(2, 30)))
    assert {(job.id, replayed) for job, replayed in together} == {(first.id, True)}
    with pytest.raises(IdempotencyMismatch):
        await store.jobs.accept(new_job(50), INPUT, replace(key, fingerprint=b"b"))
    assert len(await store.jobs.page(JobQuery())) == 1


async def test_two_jobs_of_a_group_never_run_at_once(store: Store) -> None:
    jobs = [await submit(store, new_job(n, group_key="user-7")) for n in (1, 2)]
    assert await claim(store, jobs[0]) is not None
    with pytest.raises(Exception, match="UNIQUE"):
        await claim(store, jobs[1])


async def test_a_transition_by_hand_changes_the_row_or_leaves_it(store: Store) -> None:
    job = await submit(store)
    change = await store.jobs.change(job.id, partial(cancelled, now_ms=NOW, kept=KEPT), now_ms=NOW)
    assert change is not None
    assert (change.before.state, change.after.state) == (JobState.IN_QUEUE, JobState.CANCELLED)
    again = await store.jobs.change(job.id, partial(redriven, now_ms=NOW), now_ms=NOW)
    assert again is not None
    assert again.before == again.after
    assert await claim(store, job) is None


async def test_a_redriven_job_lost_its_old_output_and_may_run_again(store: Store) -> None:
    job = await running(store, new_job(max_attempts=1))
    assert await store.jobs.append_chunks(job, [b"1"])
    assert await store.jobs.put_progress(job, INPUT)
    await settle(store, job, FAILED)
    again = await store.jobs.change(job.id, partial(redriven, now_ms=NOW), now_ms=NOW)
    assert again is not None
    assert again.after.state is JobState.IN_QUEUE
    assert await store.jobs.payload(job.seq, "progress") is None
    assert await store.jobs.chunks(job.seq, 1, after=0, limit=9) == ()
    second = await claim(store, again.after)
    assert second is not None
    assert (second.job.deliveries, second.job.attempt) == (2, 1)


async def test_jobs_expire_in_the_queue_and_are_deleted_after_their_time(store: Store) -> None:
    job = await submit(store, new_job(ttl_ms=10_000))
    late_ms = NOW + 10_000
    assert await claim(store, job, now_ms=late_ms) is None
    assert (await store.jobs.next_times())[1] == late_ms
    (change,) = await store.jobs.expire_due(late_ms, partial(expired, now_ms=late_ms, kept=KEPT), limit=10)
    assert change.after.dead
    assert [each.id for each in await store.jobs.page(JobQuery(dead=True))] == [job.id]
    assert await purge(store, late_ms + KEPT.dead_ms - 1) == ()
    assert await purge(store, late_ms + KEPT.dead_ms) == (job.id,)
    assert await store.jobs.job(job.id) is None


async def test_chunks_come_back_in_order_behind_the_last_one_read(store: Store) -> None:
    job = await running(store)
    assert await store.jobs.append_chunks(job, [b"a", b"b"])
    assert await store.jobs.append_chunks(job, [b"c"])
    assert await store.jobs.chunks(job.seq, 1, after=1, limit=9) == ((2, b"b"), (3, b"c"))


async def test_those_that_wait_long_behind_others_rise_a_step(store: Store) -> None:
    low = await submit(store, new_job(1, priority=0))
    await submit(store, new_job(2, priority=3))
    assert await store.jobs.age(LLM, NOW + 299_999, limit=10) == 0
    assert await store.jobs.age(LLM, NOW + 300_000, limit=10) == 1
    assert await store.jobs.age(LLM, NOW + 300_000, limit=10) == 0
    read = await store.jobs.job(low.id)
    assert read is not None
    assert (read.priority, read.effective_priority) == (0, 1)


async def test_equals_do_not_rise(store: Store) -> None:
    for n in range(3):
        await submit(store, new_job(n))
    assert await store.jobs.age(LLM, NOW + DAY_MS, limit=10) == 0


async def test_a_lease_that_is_not_renewed_lapses(store: Store) -> None:
    kept, lost = [await running(store, new_job(n)) for n in (1, 2)]
    assert await store.jobs.renew_leases([kept.seq], instance="run-1", until_ms=NOW + 120_000) == 1
    assert [job.id for job in await store.jobs.lapsed(NOW + 60_000, limit=10)] == [lost.id]


async def test_what_another_run_had_under_way_waits_again_and_keeps_its_attempt(store: Store) -> None:
    job = await running(store)
    at_start = await begin(store)
    (change,) = at_start.given_back
    assert (change.before.worker_id, change.after.state) == ("wk_a", JobState.IN_QUEUE)
    assert (change.after.attempt, change.after.deliveries) == (0, 1)
    assert 0 <= change.after.available_at_ms - at_start.anchor.at_ms <= 5_000
    assert at_start.waiting[LLM].count == 1
    assert await complete(store, job) is None
    (attempt,) = await store.jobs.attempts(job.seq)
    assert attempt.reason == "daemon_restarted"


async def test_what_ends_a_job_is_written_with_what_follows_from_it_or_not_at_all(store: Store) -> None:
    seen: list[Job] = []

    def on_end(connection: sqlite3.Connection, ended: Sequence[Job]) -> None:
        assert connection.in_transaction
        if any(job.priority == 9 for job in ended):
            raise RuntimeError("refused")
        seen.extend(ended)

    store.jobs.writer.on_end = on_end
    jobs = [await running(store, new_job(n)) for n in range(3)]
    await complete(store, jobs[0])
    await settle(store, jobs[1], replace(FAILED, may_retry=False))
    await settle(store, jobs[2], FAILED)
    waiting = await submit(store, new_job(4))
    await store.jobs.change(waiting.id, partial(cancelled, now_ms=NOW, kept=KEPT), now_ms=NOW)
    assert [job.state for job in seen] == [
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
    ]
    refused = await running(store, new_job(5, priority=9))
    with pytest.raises(RuntimeError, match="refused"):
        await complete(store, refused)
    read = await store.jobs.job(refused.id)
    assert read is not None
    assert read.state is JobState.IN_PROGRESS


async def test_large_payloads_come_back_whole_and_their_files_go_with_the_last_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Payload(content=b"\x00\xff" * INLINE_BYTES_MAX)
    async with opened("file", tmp_path, HandClock()) as store:
        await begin(store)
        jobs = [await submit(store, new_job(n), large) for n in (1, 2)]
        claimed = await claim(store, jobs[0])
        assert claimed is not None
        assert claimed.payload == large
        (file,) = (tmp_path / "data" / "blobs").glob("??/*")
        assert file.stat().st_mode & 0o777 == 0o600
        monkeypatch.setattr("gpud.adapters.sqlite.blobs.ORPHAN_AGE_S", -60.0)
        assert await store.jobs.sweep_blobs() == 0
        await complete(store, claimed.job)
        for job in jobs:
            await store.jobs.change(job.id, partial(cancelled, now_ms=NOW, kept=KEPT), now_ms=NOW)
            assert await store.jobs.delete(job.id, allowed=lambda _: True)
        assert await store.jobs.sweep_blobs() == 1
        assert not file.exists()


async def test_a_payload_that_somebody_removed_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="cannot be read"):
        await BlobFiles(tmp_path).get("ab" * 32)


async def test_a_young_orphan_is_left_for_the_row_that_may_come(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    ref = await blobs.put(b"x")

    async def unused(_: str) -> bool:
        return False

    assert await blobs.sweep(unused) == 0
    assert await blobs.get(ref) == b"x"


@pytest.mark.parametrize("owner", ["key_a", "key_b"])
async def test_a_list_can_be_one_owners_and_goes_on_where_it_stopped(store: Store, owner: str) -> None:
    for n in range(10):
        await submit(store, new_job(n, owner="key_a" if n % 2 else "key_b"))
    first = await store.jobs.page(JobQuery(endpoint=LLM, owner=owner, limit=3))
    rest = await store.jobs.page(JobQuery(owner=owner, before_seq=first[-1].seq))
    assert len(first) == 3
    assert len(rest) == 2
    assert {job.owner for job in (*first, *rest)} == {owner}
    seqs = [job.seq for job in (*first, *rest)]
    assert seqs == sorted(seqs, reverse=True)
