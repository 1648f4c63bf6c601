from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.endpoint import ScalePolicy, Volume
from gpud.core.page_cache import FileSet, PageCachePolicy
from gpud.core.standby import StandbyMode, StandbyPolicy

if TYPE_CHECKING:
    from tests.sim.sim import Sim

IDLE = ScalePolicy(min_workers=0, max_workers=1, idle_timeout_s=5)


def deploy(sim: Sim, policy: PageCachePolicy, *, standby: StandbyMode = StandbyMode.NONE) -> None:
    sim.images.build("echo:1")
    spec = replace(
        sim.spec("echo", IDLE, gpus=1, image="echo:1", env=(), health=None, limits=None),
        volumes=(Volume(source="/srv/models", target="/models"),),
        page_cache=policy,
        standby=StandbyPolicy(mode=standby),
    )
    sim.do(sim.up.fleet.control.deploy(spec))


def serve(sim: Sim) -> None:
    request = sim.request("echo")
    sim.run_until(lambda: request.outcome is not None, within_s=60)
    assert request.outcome == "answered"
    sim.run(for_s=70)


def test_a_first_start_is_recorded_once_and_read_ahead_of_the_next(sim: Sim) -> None:
    deploy(sim, PageCachePolicy(record=True))
    cache = sim.box.page_cache
    serve(sim)
    assert (len(cache.recorded), cache.replayed) == (1, [])
    (told,) = sim.events("image.reads_recorded")
    assert told["by"] == "opened", "its start was watched from the moment at which its container ran"
    serve(sim)
    assert len(cache.recorded) == 1
    assert not cache.watched
    assert cache.replayed == [(cache.recorded[0], ())]
    assert sim.events("image.warmed") == [{"files": 1, "bytes": 1}]


def test_a_recording_that_cannot_be_made_is_told_once_and_spoils_nothing(sim: Sim) -> None:
    sim.box.page_cache.why_not = "gpud may not read /var/lib/docker"
    deploy(sim, PageCachePolicy(record=True))
    serve(sim)
    serve(sim)
    (told,) = sim.events("image.reads_recorded")
    assert told["why_not"] == "gpud may not read /var/lib/docker"
    assert sim.box.page_cache.replayed == []


def test_model_files_are_read_when_a_worker_is_wanted(sim: Sim) -> None:
    deploy(sim, PageCachePolicy(files=("/models/**",)))
    serve(sim)
    ((_, sets),) = sim.box.page_cache.replayed
    assert sets == (FileSet(root="/srv/models", pattern="**"),)
    assert sim.box.page_cache.recorded == []


def test_a_parked_worker_has_its_files_read_while_it_waits(sim: Sim) -> None:
    deploy(sim, PageCachePolicy(files=("/models/**",)), standby=StandbyMode.PARKED)
    sim.run(for_s=30)
    assert len(sim.box.page_cache.replayed) == 1


def test_a_parked_worker_is_watched_before_its_trigger_and_one_that_ends_unrecorded_no_more(sim: Sim) -> None:
    deploy(sim, PageCachePolicy(record=True), standby=StandbyMode.PARKED)
    sim.run(for_s=30)
    cache = sim.box.page_cache
    ((first, pid),) = cache.watched.items()
    assert pid == sim.runtime.containers[first].pid
    sim.ask(lambda: sim.runtime.crash(first))
    sim.run(for_s=60)
    ((second, _pid),) = cache.watched.items()
    assert second != first
    serve(sim)
    (told,) = sim.events("image.reads_recorded")
    assert told["by"] == "opened"


def test_an_endpoint_that_does_not_ask_has_nothing_read(sim: Sim) -> None:
    deploy(sim, PageCachePolicy())
    serve(sim)
    assert (sim.box.page_cache.recorded, sim.box.page_cache.replayed, sim.box.page_cache.watched) == (
        [],
        [],
        {},
    )
