"""What workers call, answered by the real queue: RunPod's protocol, request by request."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpud.adapters.sqlite.store import memory_database
from gpud.core.ids import GpuUuid, JobId, WorkerId
from gpud.core.job import Delivered, Ending, JobState
from gpud.core.worker import WorkerState
from gpud.jobs import pull_ends
from tests.contract.pull_site import EP, WRK, PullSite, pull_site
from tests.unit.core.making import worker as a_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_RECORDED = Path(__file__).with_name("runpod_worker_calls.jsonl").read_text(encoding="utf-8")
CALLS = [json.loads(line) for line in _RECORDED.splitlines()]
SCENARIOS = {name: list(calls) for name, calls in groupby(CALLS, key=lambda call: call["scenario"])}
"""Requests of the real SDK, of four generations, as they were sent; `gave` is what the answer handed out."""


@pytest.fixture
async def site() -> AsyncIterator[PullSite]:
    async with pull_site() as site:
        yield site


async def until(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


def expected(body: Any) -> JobState:
    return JobState.FAILED if isinstance(body, dict) and body.get("error") else JobState.COMPLETED


class Replay:
    """Sends one scenario's requests again, each job of theirs under the id it has here."""

    def __init__(self, site: PullSite) -> None:
        self._site = site
        self.ours: dict[str, JobId] = {}
        self.ends: dict[str, JobState] = {}
        self.handed: list[str] = []

    async def send(self, call: dict[str, Any]) -> None:
        for job in call.get("gave", ()):
            given = {name: value for name, value in job.items() if name not in ("id", "input")}
            self.ours[job["id"]] = await self._site.submit(job.get("input"), document=given)
        path = self._path(call)
        status, said = await self._site.call(
            call["method"], path, body=call.get("body"), headers=call["headers"]
        )
        takes = "/job-take" in path
        if takes and status == 200:
            for one in said if isinstance(said, list) else [said]:
                assert {"id", "input"} <= set(one)
                self.handed.append(one["id"])
        else:
            assert status == (204 if takes or "/job-stop" in path else 200), said
        assert "gave" not in call or status == 200
        if "/job-done/" in path:
            self._note_end(call)

    def _path(self, call: dict[str, Any]) -> str:
        path = str(call["path"]).replace("wrk-1", WRK)
        for theirs in sorted(self.ours, key=len, reverse=True):
            for behind in "?&":
                path = path.replace(f"/{theirs}{behind}", f"/{self.ours[theirs]}{behind}")
        return path

    def _note_end(self, call: dict[str, Any]) -> None:
        body = json.loads(call["body"])
        theirs = call["path"].split("/")[5].split("?")[0].split("&")[0]
        if body.get("status") != "IN_PROGRESS":
            self.ends.setdefault(theirs, expected(body))
        if body.get("stopPod"):  # it gets nothing more: another one goes on in its name
            self._site.worker(state=WorkerState.RELEASING)
            self._site.worker()


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
async def test_every_request_of_the_sdk_is_answered_and_its_jobs_end_as_it_said(scenario: str) -> None:
    async with pull_site(hold_s=0.02) as site:
        replay = Replay(site)
        for call in SCENARIOS[scenario]:
            await replay.send(call)
        for theirs in replay.ends.keys() & replay.ours.keys():
            job = await site.job(replay.ours[theirs])
            assert (job.state, job.deliveries) == (replay.ends[theirs], 1), (scenario, theirs, job)
        # One that the worker dropped without a word is given again, and no other.
        dropped = {replay.ours[theirs] for theirs in replay.ours if theirs not in replay.ends}
        assert {one for one in replay.handed if replay.handed.count(one) > 1} <= dropped


async def test_a_poll_waits_for_a_job_and_gets_all_that_its_client_sent(site: PullSite) -> None:
    polling = asyncio.ensure_future(site.take())
    await asyncio.sleep(0.05)
    assert not polling.done()
    document = {"webhook": "https://a.example/", "s3Config": {"bucketName": "b"}, "policy": {"ttl": 10_000}}
    job_id = await site.submit({}, document=document)
    assert await polling == {"id": job_id, "input": {}, **document}
    assert (await site.job(job_id)).state is JobState.IN_PROGRESS
    await site.done(job_id, {"output": {"ok": "é"}})
    job = await site.job(job_id)
    assert (job.state, job.deliveries, job.worker_id) == (JobState.COMPLETED, 1, WRK)
    assert await site.result(job_id) == {"ok": "é"}


async def test_a_batch_gets_at_most_what_it_has_room_for(site: PullSite) -> None:
    jobs = [await site.submit(n) for n in range(5)]
    path = f"/v2/ep0/job-take-batch/{WRK}?gpu=x&batch_size=3&job_in_progress=0"
    _, first = await site.call("GET", path)
    _, rest = await site.call("GET", path.replace("progress=0", "progress=1"))
    assert [job["id"] for job in first] == jobs[:3]
    assert [job["id"] for job in rest] == jobs[3:]
    assert site.dispatcher.worker_in_flight(WRK) == 5


async def test_an_answer_that_hands_out_a_job_closes_its_connection(site: PullSite) -> None:
    await site.submit()
    headers = {"Authorization": site.tokens.of(WRK)}
    async with site.http.get(f"{site.url}/v2/ep0/job-take/{WRK}?gpu=x", headers=headers) as answer:
        assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("call", ["job-take", "job-take-batch", "job-stop", "ping"])
async def test_a_forged_token_is_refused_in_the_dialects_own_shape(
    site: PullSite, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpud.api.worker_calls._FORGED_PAUSE_S", 0.01)
    await site.submit()
    for token in ("", "forged", site.tokens.of(WorkerId("wk_b"))):
        status, said = await site.call("GET", f"/v2/ep0/{call}/{WRK}?gpu=x", headers={"Authorization": token})
        assert status == 401
        assert "RUNPOD_AI_API_KEY" in said["error"]
    assert site.jobs.queue.lane(EP).waiting == 1


async def test_a_result_of_another_workers_job_changes_nothing(site: PullSite) -> None:
    site.worker(other := WorkerId("wk_b"))
    job_id = await site.submit()
    assert await site.take() is not None
    await site.done(job_id, {"output": "stolen"}, worker=other)
    assert (await site.job(job_id)).state is JobState.IN_PROGRESS
    await site.done(job_id, {"output": "mine"})
    assert await site.result(job_id) == "mine"


async def test_late_and_repeated_results_and_progress_after_the_result_are_ignored(site: PullSite) -> None:
    job_id = await site.submit()
    await site.take()
    await site.done(job_id, {"status": "IN_PROGRESS", "output": 50})
    assert await site.result(job_id, "progress") == 50
    await site.done(job_id, {"output": 1})
    await site.done(job_id, {"output": 2})
    await site.done(job_id, {"status": "IN_PROGRESS", "output": 99})
    await site.done("no-such-job", {"output": 3})
    job = await site.job(job_id)
    assert (job.state, await site.result(job_id)) == (JobState.COMPLETED, 1)


async def test_what_a_generator_yields_is_there_in_order_before_its_end(site: PullSite) -> None:
    job_id = await site.submit()
    await site.take()
    for n in range(20):
        path = f"/v2/ep0/job-stream/{WRK}/{job_id}?gpu=x&isStream=false"
        status, _ = await site.call("POST", path, body=json.dumps({"output": {"n": n}}))
        assert status == 200
    await site.done(job_id, {"output": []})
    job = await site.job(job_id)
    chunks = await site.jobs.queue.store.chunks(job.seq, job.deliveries, after=0, limit=100)
    assert [json.loads(chunk)["n"] for _, chunk in chunks] == list(range(20))


async def test_a_result_that_is_too_large_fails_its_job_with_an_error_that_says_so() -> None:
    async with pull_site(result_bytes_max=1000) as site:
        job_id = await site.submit()
        await site.take()
        path = f"/v2/ep0/job-done/{WRK}/{job_id}?gpu=x&isStream=false"
        status, said = await site.call("POST", path, body=json.dumps({"output": "x" * 2000}))
        assert status == 400
        job = await site.job(job_id)
        assert job.state is JobState.FAILED
        assert "jobs.result_bytes_max" in job.error
        assert said["error"] == job.error


async def test_a_job_whose_worker_says_that_it_has_none_is_given_again_or_fails(site: PullSite) -> None:
    lost = await site.submit("lost on its way")
    await site.take()
    again = await site.take(query="&job_in_progress=0")
    assert again is not None
    assert again["id"] == lost
    job = await site.job(lost)
    assert (job.attempt, job.deliveries) == (1, 2), "an attempt that never began is not counted"
    path = f"/v2/ep0/ping/{WRK}?gpu=x&job_id={lost}&runpod_version=1.12.0"
    assert (await site.call("GET", path))[0] == 200
    polling = asyncio.ensure_future(site.take(query="&job_in_progress=0"))
    job = await site.ended(lost)
    assert (job.state, job.reason) == (JobState.FAILED, "result_dropped")
    assert "JSON" in job.error
    polling.cancel()


async def test_a_handler_that_drops_its_job_before_the_first_ping_is_found_out(site: PullSite) -> None:
    job_id = await site.submit("not serialisable")
    for _ in range(2):
        taken = await site.take(query="&job_in_progress=0")
        assert taken is not None
        assert taken["id"] == job_id
    polling = asyncio.ensure_future(site.take(query="&job_in_progress=0"))
    job = await site.ended(job_id)
    assert (job.state, job.reason, job.deliveries) == (JobState.FAILED, "result_dropped", 2)
    polling.cancel()


async def test_a_job_that_pings_never_list_beside_others_runs_again(
    site: PullSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_ends, "_SHOWN_S", 0.0)
    listed, missing = await site.submit("arrived"), await site.submit("did not")
    await site.call("GET", f"/v2/ep0/job-take-batch/{WRK}?gpu=x&batch_size=2")
    await site.call("GET", f"/v2/ep0/ping/{WRK}?gpu=x")
    assert {listed, missing} <= set(site.jobs.queue.running), "a ping that lists nothing says nothing"
    await site.call("GET", f"/v2/ep0/ping/{WRK}?gpu=x&job_id={listed}")
    await until(lambda: missing not in site.jobs.queue.running)
    job = await site.job(missing)
    assert (job.state, job.attempt, job.reason) == (JobState.IN_QUEUE, 0, "not_taken")
    assert listed in site.jobs.queue.running


async def test_a_poll_that_waits_is_renewed_when_a_job_is_stopped(
    site: PullSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_ends, "_NUDGE_S", 0.01)
    job_id = await site.submit()
    await site.take()
    polling = asyncio.ensure_future(site.take(query="&job_in_progress=1"))
    await asyncio.sleep(0.05)
    await site.jobs.by_hand.cancel(job_id, allowed=lambda _: True)
    async with asyncio.timeout(5):
        assert await polling is None
    polling = asyncio.ensure_future(site.take(query="&job_in_progress=0"))
    await until(lambda: site.dispatcher.worker_in_flight(WRK) == 0)
    assert site.fates.recycled == []
    polling.cancel()


async def test_a_poll_that_was_sent_before_another_was_answered_loses_no_job(site: PullSite) -> None:
    first = asyncio.ensure_future(site.take(query="&job_in_progress=0"))
    second = asyncio.ensure_future(site.take(query="&job_in_progress=0"))
    await asyncio.sleep(0.05)
    job_id = await site.submit()
    await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
    third = asyncio.ensure_future(site.take(query="&job_in_progress=0"))
    await asyncio.sleep(0.05)
    assert (await site.job(job_id)).deliveries == 1
    await site.done(job_id, {"output": 1})
    assert (await site.job(job_id)).state is JobState.COMPLETED
    for poll in (first, second, third):
        poll.cancel()


async def test_a_job_for_a_poll_that_was_given_up_goes_to_another(site: PullSite) -> None:
    site.worker(other := WorkerId("wk_b"))
    gone = asyncio.ensure_future(site.take())
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.wait((gone,))
    await asyncio.sleep(0.05)
    job_id = await site.submit()
    taken = await site.take(other)
    assert taken is not None
    assert taken["id"] == job_id


async def test_a_worker_that_drains_gets_no_job_and_is_let_go_before_it_is_stopped(site: PullSite) -> None:
    polling = asyncio.ensure_future(site.take())
    stops = asyncio.ensure_future(site.call("GET", f"/v2/ep0/job-stop/{WRK}?gpu=x"))
    await asyncio.sleep(0.05)
    site.worker(state=WorkerState.DRAINING)
    await site.submit()
    await asyncio.sleep(0.05)
    assert not polling.done()
    site.worker(state=WorkerState.STOPPING)
    async with asyncio.timeout(5):
        assert await polling is None
        assert (await stops)[0] == 204
    assert await site.take() is None
    assert site.jobs.queue.lane(EP).waiting == 1


async def test_a_cancelled_job_is_told_to_its_worker_and_over_at_once(site: PullSite) -> None:
    job_id = await site.submit()
    await site.take()
    stops = asyncio.ensure_future(site.call("GET", f"/v2/ep0/job-stop/{WRK}?gpu=x"))
    await asyncio.sleep(0.05)
    await site.jobs.by_hand.cancel(job_id, allowed=lambda _: True)
    assert (await site.ended(job_id)).state is JobState.CANCELLED
    assert await stops == (200, {"jobsToStop": [job_id]})
    assert site.dispatcher.worker_in_flight(WRK) == 1, "the worker may still be at it"
    await site.done(job_id, {"output": "too late"})
    assert site.dispatcher.worker_in_flight(WRK) == 0
    assert (await site.job(job_id)).state is JobState.CANCELLED
    assert site.fates.recycled == []


@pytest.mark.parametrize("pings", [True, False])
async def test_a_worker_that_does_not_let_go_of_a_job_that_is_over_is_replaced(
    site: PullSite, monkeypatch: pytest.MonkeyPatch, pings: bool
) -> None:
    monkeypatch.setattr(pull_ends, "STOP_GRACE_S", 0.05)
    if not pings:
        monkeypatch.setattr(pull_ends, "_LAST_PING_S", 0.05)
    job_id = await site.submit()
    await site.take()
    await site.jobs.by_hand.cancel(job_id, allowed=lambda _: True)
    if pings:
        await asyncio.sleep(0.06)
        await site.call("GET", f"/v2/ep0/ping/{WRK}?gpu=x&job_id={job_id}")
    await until(lambda: bool(site.fates.recycled))
    assert site.dispatcher.worker_in_flight(WRK) == 0


async def test_a_job_that_runs_too_long_is_taken_away(
    site: PullSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpud.core.job_request.EXECUTION_MS", (1, 10_000))
    job_id = await site.submit(execution_timeout_ms=20, max_attempts=1)
    await site.take()
    job = await site.ended(job_id)
    assert (job.state, job.error) == (JobState.FAILED, "executionTimeout exceeded")


async def test_a_delivery_that_is_over_is_charged_once_while_its_worker_keeps_the_place(
    site: PullSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpud.core.job_request.EXECUTION_MS", (1, 10_000))
    gpus = (GpuUuid("GPU-a"),)
    worker = replace(a_worker(state=WorkerState.READY, gpu_uuids=gpus), id=WRK, endpoint=EP)
    monkeypatch.setattr(site.fates, "worker", lambda _: worker)
    job_id = await site.submit(execution_timeout_ms=20, max_attempts=2)
    await site.take()
    metering = site.jobs.queue.metering
    monkeypatch.setattr("gpud.gateway.places.Place.used_s", lambda _: 1.5)
    await until(lambda: job_id not in site.jobs.queue.running)
    job = await site.job(job_id)
    assert (job.state, job.gpu_ns) == (JobState.IN_QUEUE, 1_500_000_000)
    assert site.dispatcher.worker_in_flight(WRK) == 1
    await until(lambda: metering.charged(job) == job)


@pytest.mark.parametrize(("asked", "state"), [(True, JobState.IN_QUEUE), (False, JobState.FAILED)])
async def test_what_an_ended_worker_had_is_given_back_and_counted_as_it_deserves(
    site: PullSite, asked: bool, state: JobState
) -> None:
    job_id = await site.submit(max_attempts=1)
    await site.take()
    if asked:
        site.fates.ending.add(WRK)
    site.worker(state=WorkerState.RELEASING if asked else WorkerState.FAILED)
    await until(lambda: job_id not in site.jobs.queue.running)
    job = await site.job(job_id)
    assert job.state is state
    assert job.attempt == (0 if asked else 1)


async def test_a_worker_that_wants_to_be_fresh_gets_no_more_and_is_replaced(site: PullSite) -> None:
    first, _second = await site.submit(1), await site.submit(2)
    await site.take()
    await site.done(first, {"output": 1, "stopPod": True})
    assert site.fates.recycled == [WRK]
    assert site.jobs.queue.lane(EP).waiting == 1
    polling = asyncio.ensure_future(site.take())
    await asyncio.sleep(0.05)
    assert not polling.done()
    polling.cancel()


async def test_a_job_that_must_run_alone_gets_an_idle_worker_to_itself(site: PullSite) -> None:
    site.worker(other := WorkerId("wk_b"))
    job_id = await site.submit("poison")
    await site.submit("beside it")
    path = f"/v2/ep0/job-take-batch/{WRK}?gpu=x&batch_size=2"
    _, taken = await site.call("GET", path)
    assert len(taken) == 2
    site.worker(state=WorkerState.FAILED)  # it ended with both: either may be to blame
    await until(lambda: not site.jobs.queue.running)
    job = await site.job(job_id)
    assert (job.state, job.solo) == (JobState.IN_QUEUE, True)
    await until(lambda: site.jobs.queue.may_claim(EP))
    _, alone = await site.call("GET", f"/v2/ep0/job-take-batch/{other}?gpu=x&batch_size=2", worker=other)
    assert len(alone) == 1


async def test_a_job_that_must_run_alone_waits_for_an_idle_worker_only_so_long(
    site: PullSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await site.submit("poison")
    claim = await site.jobs.queue.claim(EP, "wk_gone")
    assert claim is not None
    path = f"/v2/ep0/job-take-batch/{WRK}?gpu=x&batch_size=2"
    await site.submit("hours long")
    _, taken = await site.call("GET", path)
    assert len(taken) == 1
    shared = Delivered(ending=Ending.WORKER_DIED_SHARED, after_ms=0)
    await site.jobs.queue.settle(claim.job, shared)
    await site.submit("behind it")
    polling = asyncio.ensure_future(site.call("GET", path))
    await asyncio.sleep(0.05)
    assert not polling.done()
    monkeypatch.setattr("gpud.jobs.pull.SOLO_PATIENCE_S", 0.0)
    site.jobs.queue.tell_ready(EP)
    _, beside = await polling
    assert [job["id"] for job in beside] == [job_id], "and nothing comes beside it then"


async def test_a_job_that_a_worker_holds_over_a_restart_is_completed_once() -> None:
    database = memory_database()
    async with pull_site(database) as before:
        job_id = await before.submit()
        assert await before.take() is not None
        token = before.tokens.of(WRK)
    async with pull_site(database, stays=lambda job: job.worker_id == WRK) as after:
        job = await after.job(job_id)
        assert (job.state, job.instance) == (JobState.IN_PROGRESS, after.jobs.queue.instance)
        assert after.tokens.of(WRK) == token
        assert after.dispatcher.worker_in_flight(WRK) == 1
        await after.done(job_id, {"output": "over the restart"})
        job = await after.job(job_id)
        assert (job.state, job.attempt, job.deliveries) == (JobState.COMPLETED, 1, 1)
        assert after.jobs.queue.lane(EP).totals["completed"] == 1
        assert after.dispatcher.worker_in_flight(WRK) == 0
    database.close()


async def test_a_result_that_was_lost_in_a_restart_is_computed_again_and_not_counted() -> None:
    database = memory_database()
    async with pull_site(database) as before:
        job_id = await before.submit()
        assert await before.take() is not None
    async with pull_site(database, stays=lambda _: True) as after:
        taken = None
        async with asyncio.timeout(10):
            while taken is None:
                taken = await after.take(query="&job_in_progress=0")
        assert taken["id"] == job_id
        job = await after.job(job_id)
        assert (job.attempt, job.deliveries) == (1, 2)
    database.close()


async def test_stopping_lets_every_poll_go_and_leaves_jobs_with_their_workers() -> None:
    database = memory_database()
    async with pull_site(database) as site:
        job_id = await site.submit()
        await site.take()
        polling = asyncio.ensure_future(site.take(query="&job_in_progress=1"))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await site.jobs.stop(0.0)
            assert await polling is None
        assert (await site.job(job_id)).state is JobState.IN_PROGRESS
    database.close()
