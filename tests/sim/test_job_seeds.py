"""Jobs while everything goes wrong, by seed. A seed that fails is replayed by the line it prints."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gpud.core.job import Job, JobState
from gpud.core.job_request import JobPolicy
from gpud.jobs.submission import Submission
from gpud.ports.jobs import IdempotencyClaim, JobQuery, Payload
from tests.sim.job_checks import JobChecks
from tests.sim.job_pullers import FETCHED
from tests.sim.job_workers import LLM
from tests.sim.job_world import JobWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gpud.core.ids import JobId
    from gpud.ports.work import Handover, WorkerAnswer

_SEEDS = (*range(50), 124, 159)
"""The last two once kept a webhook waiting for as long as the clock had been set back."""
_LIFE_S = 100.0
_CALM_MIN = 240
_DOES = ("ok",) * 6 + (
    "fail",
    "fail_once",
    "refuse",
    "busy",
    "die",
    "die_once",
    "hang",
    "hang_once",
    "stream",
)

_TROUBLES = ("kill", "kill", "stop", "reboot", "wall", "full", "slow", "worker", "worker", "puller", "freeze")


class Callers:
    """Who makes jobs, cancels them, tries them again, and never waits for an answer that does not come."""

    def __init__(self, world: JobWorld, checks: JobChecks) -> None:
        self._world = world
        self._rng = world.rng
        self._checks = checks
        self._made = 0
        self.same_key: dict[str, set[str]] = {}

    def asked(self) -> Submission:
        rng = self._rng
        self._made += 1
        lasts_s = rng.choice((0.0, 0.01, 1.0, 6.0))
        wanted = {"does": rng.choice(_DOES), "lasts_s": lasts_s, "n": self._made}
        content = json.dumps(wanted).encode() + b" " * rng.choice((0, 0, 0, 300_000))
        return Submission(
            endpoint=rng.choice((LLM, FETCHED)),
            owner="local",
            payload=Payload(content=content),
            policy=JobPolicy(
                ttl_ms=rng.choice((10_000, 60_000, 3_600_000)),
                execution_timeout_ms=rng.choice((5_000, 20_000)),
                deadline_ms=rng.choice((0, 0, 0, 30_000)),
                priority=rng.randint(-2, 2),
                low_priority=rng.random() < 0.2,
                max_attempts=rng.randint(1, 3),
                group_key=rng.choice(("", "", "a", "b")),
            ),
            webhook=f"https://hooks.example/{self._made}" if rng.random() < 0.6 else "",
            sync=rng.random() < 0.3,
        )

    async def make(self) -> None:
        asked = self.asked()
        found = await self._world.ask(lambda jobs: jobs.queue.submit(asked))
        if found is not None:
            self._checks.acknowledged.add(found[0].id)

    async def make_at_once(self) -> None:
        """Many callers with one key: one job."""
        asked = self.asked()
        key = f"key-{self._made}"
        claim = IdempotencyClaim(scope="local llm", key=key, fingerprint=b"same")
        keyed = Submission(
            endpoint=asked.endpoint,
            owner=asked.owner,
            payload=asked.payload,
            policy=asked.policy,
            webhook=asked.webhook,
            idempotency=claim,
        )
        found = await asyncio.gather(
            *(self._world.ask(lambda jobs: jobs.queue.submit(keyed)) for _ in range(20))
        )
        told = {one[0].id for one in found if one is not None}
        assert len(told) <= 1, f"one key made {told}"
        self._checks.acknowledged |= told

    async def leave_early(self) -> None:
        """A caller that is gone before it is answered: its job is there, or is not, as a whole."""
        asked = self.asked()
        asking = asyncio.ensure_future(self._world.ask(lambda jobs: jobs.queue.submit(asked)))
        for _ in range(self._rng.randint(0, 6)):
            await asyncio.sleep(0)
        asking.cancel()

    async def cancel(self) -> None:
        if self._checks.acknowledged:
            job_id: Any = self._rng.choice(sorted(self._checks.acknowledged))
            await self._world.ask(lambda jobs: jobs.by_hand.cancel(job_id, allowed=lambda _: True))

    async def retry(self) -> None:
        await self._world.ask(
            lambda jobs: jobs.by_hand.redrive(JobQuery(dead=True, limit=2), allowed=lambda _: True)
        )

    async def repeat_a_stale_answer(self) -> None:
        """A delivery that is not the present one says that it is done."""
        had = [*self._world.workers.had, *self._world.pullers.had]
        if not had:
            return
        old: Job = self._rng.choice(had)
        present = await self._world.ask(lambda jobs: jobs.queue.store.job(old.id))
        if present is not None and (present.deliveries, present.instance) != (old.deliveries, old.instance):
            said = await self._world.ask(lambda jobs: jobs.queue.complete(old, Payload(content=b"0")))
            assert said is None, f"a stale delivery of {old.id} ended it"


class Trouble:
    """What goes wrong around them."""

    def __init__(self, world: JobWorld) -> None:
        self._world = world
        self._rng = world.rng

    async def one(self) -> None:
        world, rng = self._world, self._rng
        match rng.choice(_TROUBLES):
            case "kill":
                await world.kill()
            case "stop":
                await world.restart()
            case "reboot":
                await world.kill(reboot=True)
            case "worker" if world.workers.alive:
                world.workers.end(rng.choice(sorted(world.workers.alive)), asked=rng.random() < 0.3)
            case "puller" if world.pullers.alive:
                world.pullers.end(rng.choice(sorted(world.pullers.alive)))
            case "freeze" if world.pullers.alive:
                world.pullers.freeze(rng.choice(sorted(world.pullers.alive)), rng.uniform(5.0, 60.0))
            case "wall":
                world.clock.step_wall(rng.choice((-3600.0, 3600.0, -31e6, 31e6)))
            case "full":
                world.disk.full = True
                await asyncio.sleep(rng.uniform(0.1, 20.0))
                world.disk.full = False
            case "slow":
                world.disk.delay_s = lambda: rng.uniform(0.0, 0.5)
                await asyncio.sleep(rng.uniform(1.0, 20.0))
                world.disk.delay_s = lambda: 0.0
            case _:
                pass  # nobody is alive


async def live(world: JobWorld, checks: JobChecks) -> None:
    """Some minutes in which anything may happen, then quiet until nothing is left to do."""
    rng = world.rng
    world.disk.delay_s = lambda: 0.002 * rng.random()
    callers, trouble = Callers(world, checks), Trouble(world)
    await world.begin()

    async def troubles() -> None:
        while True:
            await asyncio.sleep(rng.expovariate(1 / 12.0))
            await trouble.one()

    troubling = world.spawn(troubles())
    until_s = world.loop.time() + _LIFE_S
    steps: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (callers.make,) * 8 + (
        callers.make_at_once,
        callers.leave_early,
        callers.leave_early,
    )
    steps += (callers.cancel, callers.retry, callers.repeat_a_stale_answer, callers.repeat_a_stale_answer)
    while world.loop.time() < until_s and not troubling.done():
        await asyncio.sleep(rng.expovariate(1 / 2.0))
        world.spawn(rng.choice(steps)())
    troubling.cancel()
    await asyncio.wait((troubling,))
    if not troubling.cancelled():
        troubling.result()
    await calm(world)


async def calm(world: JobWorld) -> None:
    """All is well again."""
    world.disk.full = False
    world.disk.delay_s = lambda: 0.0
    world.workers.faulty = world.pullers.faulty = world.receiver.troubled = False
    if world.life is None or not world.life.ready.is_set():
        if world.life is not None:
            await asyncio.wait((world.life.task,))
        await world.begin()


@pytest.mark.parametrize("stop", ["kill", "restart"])
def test_what_a_worker_does_while_no_daemon_is_there_is_not_done_again(stop: str) -> None:
    world = JobWorld(1)
    assert world.workers.tell
    world.workers.faulty = world.pullers.faulty = world.receiver.troubled = False

    async def submitted(does: str) -> JobId:
        content = json.dumps({"does": does, "lasts_s": 10.0}).encode()
        policy = JobPolicy(max_attempts=2, execution_timeout_ms=60_000)
        asked = Submission(endpoint=LLM, owner="local", payload=Payload(content=content), policy=policy)
        found = await world.ask(lambda jobs: jobs.queue.submit(asked))
        assert found is not None
        await asyncio.sleep(3.0)
        job_id: JobId = found[0].id
        return job_id

    async def away(does: str) -> Job:
        """A job over whose end no daemon is there."""
        job_id = await submitted(does)
        await world.restart() if stop == "restart" else await world.kill()
        await asyncio.sleep(30.0)
        job = await world.ask(lambda jobs: jobs.queue.store.job(job_id))
        assert isinstance(job, Job)
        return job

    try:
        world.do(world.begin())
        job = world.do(away("ok"))
        assert (job.state, job.deliveries) == (JobState.COMPLETED, 1)
        job = world.do(away("fail_once"))
        assert (job.state, job.attempt, job.deliveries) == (JobState.COMPLETED, 2, 2)
        job = world.do(away("die_once"))
        assert (job.state, job.attempt, job.deliveries) == (JobState.COMPLETED, 1, 2)
        assert world.workers.told == 2
        assert not world.workers.breaches
    finally:
        world.close()


def test_a_job_whose_delivery_breaks_in_the_daemon_itself_is_counted_once_more_and_no_more() -> None:
    world = JobWorld(0)
    world.workers.faulty = world.pullers.faulty = world.receiver.troubled = False
    deliver = world.workers.deliver

    async def breaks(handover: Handover, on_chunk: Callable[[bytes], None]) -> WorkerAnswer:
        if handover.claim.job.deliveries == 1:
            raise RuntimeError("a fault of the daemon")
        return await deliver(handover, on_chunk)

    world.workers.deliver = breaks  # type: ignore[method-assign]
    policy = JobPolicy(execution_timeout_ms=60_000)
    content = json.dumps({"does": "ok", "lasts_s": 1.0}).encode()
    asked = Submission(endpoint=LLM, owner="local", payload=Payload(content=content), policy=policy)

    async def through() -> Job:
        found = await world.ask(lambda jobs: jobs.queue.submit(asked))
        await asyncio.sleep(1.0)
        assert world.life is not None
        lane = world.life.jobs.queue.lane(LLM)
        assert lane.running == len(world.life.jobs.queue.running) == 0
        await asyncio.sleep(120.0)
        assert lane.running == 0
        job = await world.ask(lambda jobs: jobs.queue.store.job(found[0].id))
        assert isinstance(job, Job)
        return job

    try:
        world.do(world.begin())
        job = world.do(through())
        assert (job.state, job.attempt, job.deliveries) == (JobState.COMPLETED, 1, 2)
    finally:
        world.close()


@pytest.mark.parametrize("seed", _SEEDS)
def test_every_job_ends_once_whatever_goes_wrong(seed: int) -> None:
    world = JobWorld(seed)
    checks = JobChecks(world)
    world.loop.on_step = checks.step
    try:
        world.do(live(world, checks))
        for _ in range(_CALM_MIN):
            world.do(asyncio.sleep(60.0))
            if not checks.open:
                break
        world.do(asyncio.sleep(60.0))  # for the last webhooks
        checks.end()
    except BaseException as error:
        replay = f"{__file__}::test_every_job_ends_once_whatever_goes_wrong[{seed}]"
        error.add_note(f"At {world.loop.time()} s. Replay: python -m pytest '{replay}'")
        raise
    finally:
        world.close()
