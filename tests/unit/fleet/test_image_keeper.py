from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.adapters.cron_calendar import CronCalendar
from gpud.core.endpoint import PinnedImage, ScalePolicy
from gpud.core.image_gc import ImagePolicy, KeptFor
from gpud.errors import ImagePullFailed
from gpud.fleet.image_keeper import ImageKeeper

if TYPE_CHECKING:
    from tests.sim.sim import Sim

MB = 1_000_000
IDLE = ScalePolicy(min_workers=0, max_workers=1, idle_timeout_s=1)


def keeper_of(sim: Sim, policy: ImagePolicy) -> ImageKeeper:
    fleet = sim.up.fleet
    keeper = ImageKeeper(fleet.hands, fleet.prewarmer, policy, CronCalendar())
    fleet.prewarmer.make_room = keeper.make_room
    return keeper


def pushed(sim: Sim, name: str) -> PinnedImage:
    return PinnedImage(reference=name, pin=sim.images.push(name))


def serve(sim: Sim) -> None:
    request = sim.request("app")
    sim.run_until(lambda: request.outcome is not None, within_s=60)


def pull(sim: Sim, name: str) -> PinnedImage:
    image = pushed(sim, name)
    sim.do(sim.up.fleet.prewarmer.ensure(image, ""))
    return image


def test_over_its_budget_the_box_loses_what_nobody_needs_and_keeps_what_an_endpoint_may_go_back_to(
    sim: Sim,
) -> None:
    first = pull(sim, "registry.example/app:1")
    sim.deploy("app", IDLE, image="registry.example/app:1")
    serve(sim)
    second = pull(sim, "registry.example/app:2")
    sim.deploy("app", IDLE, image="registry.example/app:2")
    serve(sim)
    sim.run(for_s=300)
    unused = pull(sim, "registry.example/other:1")
    keeper = keeper_of(sim, ImagePolicy(disk_budget_bytes=1))
    dry = sim.do(keeper.collect(dry_run=True, everything=False))
    assert [each.pins[-1] for each in dry.removed] == [unused.pin]
    assert sim.images.has(unused.pin)
    done = sim.do(keeper.collect(dry_run=False, everything=False))
    assert [each.pins[-1] for each in done.removed] == [unused.pin]
    assert {why for _, why in done.plan.kept} == {KeptFor.PINNED}
    assert (sim.images.has(first.pin), sim.images.has(second.pin), sim.images.has(unused.pin)) == (
        True,
        True,
        False,
    )
    assert done.plan.over_bytes == 12 * MB - 1
    sim.run(for_s=1)
    assert [facts["pin"] for facts in sim.events("image.removed")] == [unused.pin]
    assert len(sim.events("image.budget_exceeded")) == 1


def test_an_image_that_a_container_uses_is_kept(sim: Sim) -> None:
    image = pull(sim, "registry.example/app:1")
    sim.images.in_use = lambda pin: pin == image.pin
    done = sim.do(keeper_of(sim, ImagePolicy(disk_budget_bytes=1)).collect(dry_run=False, everything=True))
    assert done.removed == ()
    assert [why for _, why in done.plan.kept] == [KeptFor.IN_USE]


def test_an_exhausted_disk_refuses_the_pull_that_would_fill_it_and_removes_what_it_can(sim: Sim) -> None:
    unused = pull(sim, "registry.example/old:1")
    wanted = pushed(sim, "registry.example/app:1")
    keeper_of(sim, ImagePolicy(free_bytes_least=10 * MB))
    sim.images.disk_free_bytes = 2 * MB
    with pytest.raises(ImagePullFailed, match=r"images\.free_gib_min"):
        sim.do(sim.up.fleet.prewarmer.ensure(wanted, ""))
    assert not sim.images.has(unused.pin)
    assert wanted.pin not in sim.images.pulls_begun
    sim.images.disk_free_bytes = 20 * MB
    sim.do(sim.up.fleet.prewarmer.ensure(wanted, ""))
    assert sim.images.has(wanted.pin)


def test_an_image_that_was_removed_behind_gpuds_back_is_here_again_before_anyone_asks(sim: Sim) -> None:
    image = pull(sim, "registry.example/app:1")
    sim.deploy("app", IDLE, image="registry.example/app:1")
    sim.images.evict(image.pin)
    sim.run(for_s=700)
    assert sim.images.has(image.pin)


def test_at_its_start_the_daemon_pulls_what_endpoints_need(sim: Sim) -> None:
    image = pull(sim, "registry.example/app:1")
    sim.deploy("app", IDLE, image="registry.example/app:1")
    sim.stop_daemon()
    sim.images.evict(image.pin)
    sim.restart()
    sim.run(for_s=10)
    assert sim.images.has(image.pin)
