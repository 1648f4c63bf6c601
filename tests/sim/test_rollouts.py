"""From one revision to the next in virtual time: good ones, broken ones, and a daemon that dies midway."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import HealthCheck, ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.revision import RevisionState
from gpud.core.rollout import RollbackReason, RolloutStep
from gpud.core.rollout_policy import RolloutPolicy, RolloutStrategy, SmokeRequest
from gpud.core.worker import WorkerState
from gpud.errors import Conflict
from gpud.ports.webhooks import Webhook
from tests.sim.clients import Outcome
from tests.sim.final import check_books, check_requests
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.core.rollout import Rollout
    from tests.sim.clients import Request

NAME = EndpointName("echo")
HEALTH = HealthCheck(start_timeout_s=30.0)
TWO = ScalePolicy(min_workers=2, max_workers=2, concurrency=2)
STEPS = (RolloutStep.PULL, RolloutStep.CANARY, RolloutStep.PROVE, RolloutStep.SHIFT)


class Story:
    """An endpoint with workers that serve, and callers that never stop."""

    def __init__(
        self, sim: Sim, *, scale: ScalePolicy = TWO, gpus: int = 1, rollout: RolloutPolicy | None = None
    ) -> None:
        self.sim = sim
        self.gpus = gpus
        self.scale = scale
        self.rollout = rollout or RolloutPolicy()
        sim.runtime.boot_s, sim.images.pull_s = 5.0, 5.0
        self.deploy(1)
        sim.run_until(self._all_ready, within_s=60)
        self.base = self.deployed
        self._caller = sim.do(self._begin_calling())

    async def _begin_calling(self) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._call())

    async def _call(self) -> None:
        while True:
            daemon = self.sim.daemon
            if daemon is not None and not daemon.killed and daemon.started.is_set():
                self.sim.request(NAME, takes_s=0.2)
            await asyncio.sleep(0.12)

    def deploy(self, version: int, *env: str, image: str = "") -> None:
        reference = image or f"registry.example/echo:{version}"
        if not image:
            self.sim.images.push(reference)
        self.sim.deploy(
            NAME,
            self.scale,
            gpus=self.gpus,
            image=reference,
            env=tuple((name, "1") for name in env),
            health=HEALTH,
            rollout=self.rollout,
        )

    def _all_ready(self) -> bool:
        ready = [w for w in self.sim.workers(NAME) if w.state is WorkerState.READY]
        return len(ready) >= max(1, self.scale.min_workers)

    @property
    def deployed(self) -> str:
        return self.sim.up.fleet.state.endpoints[NAME].revision

    @property
    def rolling(self) -> Rollout:
        return self.sim.up.fleet.state.rollouts[NAME]

    def until(self, *steps: RolloutStep, within_s: float = 400.0) -> None:
        self.sim.run_until(lambda: self.rolling.step in steps, within_s=within_s)

    def until_over(self, within_s: float = 900.0) -> RolloutStep:
        self.sim.run_until(lambda: not self.rolling.active, within_s=within_s)
        return self.rolling.step

    def ready(self, revision: str) -> int:
        return sum(w.revision == revision and w.state is WorkerState.READY for w in self.sim.workers(NAME))

    def state_of(self, revision: str) -> RevisionState:
        records = self.sim.do(self.sim.up.fleet.control.revisions(NAME))
        return next(record.state for record in records if record.revision == revision)

    def go_home(self) -> None:
        """The callers stop calling."""
        self._caller.cancel()
        self.sim.run(for_s=60)

    def finish(self) -> list[Request]:
        """The callers go home; every request must have been answered."""
        self.go_home()
        lost = [r for r in self.sim.requests if r.outcome not in (Outcome.ANSWERED, Outcome.CUT)]
        assert not lost, f"{len(lost)} of {len(self.sim.requests)} were lost: {lost[0]}"
        check_requests(self.sim)
        check_books(self.sim)
        return self.sim.requests


@pytest.fixture
def roomy() -> Iterator[Sim]:
    with Sim(seed=1, gpus=3) as sim:
        yield sim


@pytest.fixture
def full() -> Iterator[Sim]:
    with Sim(seed=1, gpus=2) as sim:
        yield sim


def test_a_good_revision_takes_over_and_the_old_one_serves_throughout(roomy: Sim) -> None:
    story = Story(roomy)
    story.deploy(2)
    assert story.rolling.step is RolloutStep.PULL
    story.until(RolloutStep.PROVE)
    assert story.ready(story.base) == 2, "a GPU was free, so no old worker made room"
    assert story.until_over() is RolloutStep.COMPLETED
    assert story.state_of(story.base) is RevisionState.LAST_GOOD
    assert story.state_of(story.deployed) is RevisionState.CURRENT
    roomy.run_until(lambda: story.ready(story.deployed) == 2, within_s=60)
    assert {w.revision for w in roomy.workers(NAME)} == {story.deployed}
    assert not [request for request in story.finish() if request.cold and request.arrived_s > 20]


def test_on_a_full_box_one_old_worker_makes_room_and_the_rest_serve(full: Sim) -> None:
    story = Story(full)
    story.deploy(2)
    story.until(RolloutStep.PROVE)
    assert (story.ready(story.base), story.ready(story.deployed)) == (1, 1)
    assert story.until_over() is RolloutStep.COMPLETED
    story.finish()


@pytest.mark.parametrize(("gpus", "asking", "old_left"), [(4, 0, 1), (5, 30, 1), (6, 0, 2)])
def test_workers_of_two_gpus_give_way_only_where_no_pair_is_free(
    gpus: int, asking: int, old_left: int
) -> None:
    with Sim(gpus=gpus) as sim:
        sim.deploy("small", ScalePolicy(max_workers=2, concurrency=1, idle_timeout_s=5))
        story = Story(sim, gpus=2)
        small = [sim.request("small", takes_s=5) for _ in range(asking)]
        story.deploy(2)
        story.until(RolloutStep.PROVE)
        assert story.ready(story.base) == old_left
        assert story.until_over() is RolloutStep.COMPLETED
        sim.run_until(lambda: story.ready(story.deployed) == 2, within_s=200)
        sim.run_until(lambda: all(request.outcome for request in small), within_s=300)
        story.finish()


def test_the_only_gpu_is_down_for_one_cold_start_and_requests_wait() -> None:
    with Sim(seed=2, gpus=1) as sim:
        story = Story(sim, scale=ScalePolicy(min_workers=1, max_workers=1, concurrency=2))
        story.deploy(2)
        assert story.until_over() is RolloutStep.COMPLETED
        story.finish()


def test_recreate_stops_the_old_ones_before_the_first_new_one_starts(roomy: Sim) -> None:
    story = Story(roomy, rollout=RolloutPolicy(strategy=RolloutStrategy.RECREATE))
    story.deploy(2)
    new = story.deployed
    story.until(RolloutStep.CANARY)
    roomy.run_until(lambda: any(w.revision == new for w in roomy.workers(NAME)), within_s=60)
    assert {w.revision for w in roomy.workers(NAME)} == {new}
    assert story.until_over() is RolloutStep.COMPLETED
    story.finish()


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ("EXIT_AT_START", RollbackReason.START_FAILURES),
        ("NEVER_LISTEN", RollbackReason.START_FAILURES),
        ("FAILS", RollbackReason.ERROR_RATE),
        ("SMOKES", RollbackReason.SMOKE),
    ],
)
@pytest.mark.parametrize("gpus", [2, 3])
def test_a_broken_revision_goes_back_by_itself(env: str, reason: RollbackReason, gpus: int) -> None:
    with Sim(seed=3, gpus=gpus) as sim:
        smoke = SmokeRequest(path="/smoke") if env == "SMOKES" else SmokeRequest()
        story = Story(sim, rollout=RolloutPolicy(smoke=smoke))
        sim.run(for_s=20)
        story.deploy(2, env)
        bad = story.deployed
        sim.run(for_s=6)
        for _ in range(60):
            sim.run(for_s=1)
            assert story.ready(story.base) >= gpus - 1
        assert story.until_over() is RolloutStep.ROLLED_BACK
        assert story.rolling.reason is reason, story.rolling.detail
        assert story.deployed == story.base
        assert story.state_of(bad) is RevisionState.FAILED
        sim.run_until(lambda: story.ready(story.base) == 2, within_s=60)
        sim.restart()
        sim.run(for_s=120)
        assert {w.revision for w in sim.workers(NAME)} == {story.base}, "a failed revision is not tried again"
        story.finish()


def test_a_step_without_progress_goes_back_at_its_deadline_and_webhooks_are_told(roomy: Sim) -> None:
    hook = Webhook(id="whk_1", url="https://app.example/hooks", types=("endpoint.rolled_back",))
    roomy.do(roomy.up.store.webhooks.add(hook, "whsec_eA=="))
    story = Story(roomy, rollout=RolloutPolicy(progress_deadline_s=20.0))
    story.deploy(2, "NEVER_LISTEN")
    story.until(RolloutStep.CANARY)
    began_s = roomy.now_s
    assert story.until_over() is RolloutStep.ROLLED_BACK
    assert story.rolling.reason is RollbackReason.DEADLINE
    assert 19 <= roomy.now_s - began_s < 25
    told = [row["kind"] for row in roomy.box.database.execute("SELECT kind FROM webhook_delivery")]
    assert told == ["endpoint.rolled_back"]
    story.finish()


def test_a_worker_on_trial_takes_no_other_endpoints_gpu(roomy: Sim) -> None:
    story = Story(roomy)
    roomy.deploy("other", ScalePolicy(max_workers=1, idle_timeout_s=3600.0))
    roomy.request("other")
    roomy.run_until(lambda: [w.state for w in roomy.workers("other")] == [WorkerState.READY], within_s=60)
    (other,) = roomy.workers("other")
    story.deploy(2)
    story.until(RolloutStep.PROVE)
    assert story.ready(story.base) == 1, "one of its own made room"
    assert story.until_over() is RolloutStep.COMPLETED
    roomy.run_until(lambda: story.ready(story.deployed) == 2, within_s=60)
    assert [w.id for w in roomy.workers("other")] == [other.id]
    story.finish()


def test_more_load_during_a_rollout_starts_more_of_the_revision_that_serves() -> None:
    with Sim(seed=5, gpus=4) as sim:
        scale = ScalePolicy(min_workers=1, max_workers=3, concurrency=2, idle_timeout_s=600.0)
        story = Story(sim, scale=scale)
        story.deploy(2, "NEVER_LISTEN")
        story.until(RolloutStep.CANARY)
        crowd = [sim.request(NAME, takes_s=10.0) for _ in range(5)]
        sim.run_until(lambda: story.ready(story.base) == 3, within_s=30)
        assert story.until_over() is RolloutStep.ROLLED_BACK
        sim.run(for_s=60)
        assert {request.outcome for request in crowd} == {Outcome.ANSWERED}
        story.finish()


def test_an_old_worker_that_dies_while_another_is_tried_is_replaced_by_an_old_one() -> None:
    with Sim(seed=6, gpus=4) as sim:
        story = Story(sim)
        story.deploy(2, "NEVER_LISTEN")
        story.until(RolloutStep.CANARY)
        victim = next(w for w in sim.workers(NAME) if w.revision == story.base)
        sim.ask(lambda: sim.runtime.crash(victim.id))
        sim.run_until(lambda: story.ready(story.base) == 2, within_s=30)
        assert story.rolling.active
        assert story.until_over() is RolloutStep.ROLLED_BACK
        story.go_home()


def test_an_image_that_cannot_be_pulled_goes_back_at_once(roomy: Sim) -> None:
    story = Story(roomy)
    reference = "registry.example/echo:2"
    roomy.images.push(reference)
    story.deploy(2, image=reference)
    roomy.images.unpush(reference)
    assert story.until_over() is RolloutStep.ROLLED_BACK
    assert story.rolling.reason is RollbackReason.IMAGE
    story.finish()


def test_a_registry_that_is_away_is_waited_for(roomy: Sim) -> None:
    story = Story(roomy)
    story.deploy(2)
    roomy.images.unplug()
    roomy.run(for_s=900)
    assert story.rolling.step is RolloutStep.PULL
    assert story.rolling.starts.failures > 3
    assert "registry" in story.rolling.starts.last_error.lower()
    roomy.images.plug()
    assert story.until_over() is RolloutStep.COMPLETED
    story.finish()


@pytest.mark.parametrize("step", STEPS)
def test_a_deploy_during_a_rollout_supersedes_it(roomy: Sim, step: RolloutStep) -> None:
    story = Story(roomy)
    story.deploy(2)
    middle = story.deployed
    story.until(step)
    story.deploy(3)
    newest = story.deployed
    assert story.until_over() is RolloutStep.COMPLETED
    assert story.deployed == newest
    expected = RevisionState.LAST_GOOD if step is RolloutStep.SHIFT else RevisionState.SUPERSEDED
    assert story.state_of(middle) is expected
    roomy.run_until(lambda: {w.revision for w in roomy.workers(NAME)} == {newest}, within_s=120)
    assert roomy.events("rollout.superseded")
    story.finish()


@pytest.mark.parametrize("step", STEPS[:3])
def test_deploying_what_still_serves_ends_the_rollout(roomy: Sim, step: RolloutStep) -> None:
    story = Story(roomy)
    story.deploy(2)
    middle = story.deployed
    story.until(step)
    story.deploy(1)
    assert story.rolling.step is RolloutStep.SUPERSEDED
    roomy.run(for_s=60)
    assert {w.revision for w in roomy.workers(NAME)} == {story.base}
    assert story.state_of(middle) is RevisionState.SUPERSEDED
    assert story.state_of(story.base) is RevisionState.CURRENT
    story.finish()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("env", ["", "EXIT_AT_START", "FAILS"])
def test_a_daemon_killed_at_any_step_goes_on_there(step: RolloutStep, env: str) -> None:
    with Sim(seed=4, gpus=3) as sim:
        story = Story(sim)
        sim.run(for_s=20)
        story.deploy(2, *([env] if env else []))
        sim.run_until(lambda: story.rolling.step is step or not story.rolling.active, within_s=400)
        target, reached = story.rolling.target, story.rolling.step
        sim.crash_daemon()
        sim.run(for_s=3)
        sim.restart()
        assert story.rolling.target == target
        assert STEPS.index(story.rolling.step) <= STEPS.index(reached) if reached in STEPS else True
        ended = story.until_over()
        assert ended is (RolloutStep.ROLLED_BACK if env else RolloutStep.COMPLETED)
        serving = story.base if env else target
        sim.run_until(lambda: story.ready(serving) == 2, within_s=120)
        story.finish()


def test_an_old_worker_is_probed_as_its_own_revision_says_after_a_restart(roomy: Sim) -> None:
    story = Story(roomy)
    story.deploy(2)
    story.until(RolloutStep.PROVE)
    roomy.restart()
    state = roomy.up.fleet.state
    made_for = {w.revision: state.made_for[w.id].revision for w in roomy.workers(NAME)}
    assert made_for == {revision: revision for revision in made_for}
    assert len(made_for) == 2
    story.until_over()
    story.finish()


def test_nobody_calls_and_one_worker_is_tried_before_the_new_revision_is_taken(roomy: Sim) -> None:
    lazy = ScalePolicy(max_workers=2, idle_timeout_s=5.0)
    roomy.runtime.boot_s = 2.0
    roomy.deploy(NAME, lazy, env=(("VERSION", "1"),))
    roomy.request(NAME)
    roomy.run(for_s=60)
    assert not roomy.workers(NAME)
    roomy.deploy(NAME, lazy, env=(("VERSION", "2"),))
    roomy.run(for_s=6)
    assert [w.state for w in roomy.workers(NAME)] == [WorkerState.READY]
    roomy.run(for_s=60)
    assert roomy.up.fleet.state.rollouts[NAME].step is RolloutStep.COMPLETED
    assert not roomy.workers(NAME)
    roomy.deploy(NAME, lazy, env=(("VERSION", "3"),), rollout=RolloutPolicy(verify=False))
    roomy.run(for_s=6)
    assert roomy.up.fleet.state.rollouts[NAME].step is RolloutStep.COMPLETED
    assert not roomy.workers(NAME), "it was only pulled"


def test_scale_settings_apply_at_once_and_make_no_revision(roomy: Sim) -> None:
    story = Story(roomy)
    roomy.rescale(NAME, min_workers=3, max_workers=3)
    assert story.deployed == story.base
    assert NAME not in roomy.up.fleet.state.rollouts
    roomy.run_until(lambda: story.ready(story.base) == 3, within_s=60)
    story.finish()


def test_rollback_by_hand_goes_to_the_revision_before_and_to_any_other(roomy: Sim) -> None:
    story = Story(roomy)
    control = roomy.up.fleet.control
    with pytest.raises(Conflict, match="no earlier revision that was good"):
        roomy.do(control.rollback(NAME, ""))
    for version in (2, 3):
        story.deploy(version)
        assert story.until_over() is RolloutStep.COMPLETED
    newest = story.deployed
    roomy.do(control.rollback(NAME, ""))
    assert story.until_over() is RolloutStep.COMPLETED
    second = story.deployed
    assert second not in (newest, story.base)
    roomy.do(control.rollback(NAME, "1"))
    assert story.until_over() is RolloutStep.COMPLETED
    assert story.deployed == story.base
    numbers = [record.number for record in roomy.do(control.revisions(NAME))]
    assert numbers == [3, 2, 1]
    story.finish()


@pytest.mark.parametrize("step", STEPS)
def test_rollback_by_hand_ends_a_rollout_under_way(roomy: Sim, step: RolloutStep) -> None:
    story = Story(roomy)
    story.deploy(2)
    bad = story.deployed
    story.until(step)
    roomy.do(roomy.up.fleet.control.rollback(NAME, ""))
    assert story.rolling.reason is RollbackReason.ASKED
    assert story.deployed == story.base
    roomy.run(for_s=90)
    assert {w.revision for w in roomy.workers(NAME)} == {story.base}
    assert story.state_of(bad) is RevisionState.FAILED
    story.finish()


def test_the_image_to_go_back_to_is_kept(roomy: Sim) -> None:
    story = Story(roomy)
    old_pin = roomy.up.fleet.state.endpoints[NAME].image.pin
    story.deploy(2)
    story.until_over()
    with pytest.raises(Conflict, match="can go back"):
        roomy.do(roomy.up.fleet.control.remove_image(old_pin))
    story.finish()
