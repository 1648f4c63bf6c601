from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.worker import WorkerState
from gpud.errors import Conflict, ImageNotFound, InvalidSpec, NotFound, StorageFull
from gpud.ports.control import EndpointCondition

if TYPE_CHECKING:
    from gpud.core.endpoint import EndpointSpec
    from gpud.fleet.catalog import Catalog
    from tests.sim.sim import Sim

_ECHO = EndpointName("echo")


def _catalog(sim: Sim) -> Catalog:
    return sim.up.fleet.control


def _spec(sim: Sim, *, ports: tuple[int, ...] = (8000,), port: int = 0, gpus: int = 1) -> EndpointSpec:
    sim.images.build("echo:1", ports=ports)
    return replace(sim.spec("echo", image="echo:1", gpus=gpus), port=port)


def test_a_deployed_endpoint_is_on_disk_and_survives_the_daemon(sim: Sim) -> None:
    endpoint, is_new = sim.do(_catalog(sim).deploy(_spec(sim)))
    assert is_new
    sim.restart()
    assert sim.up.fleet.state.endpoints == {_ECHO: endpoint}


def test_the_same_spec_again_is_no_new_revision(sim: Sim) -> None:
    first, _ = sim.do(_catalog(sim).deploy(_spec(sim)))
    sim.run(for_s=5)
    again, is_new = sim.do(_catalog(sim).deploy(_spec(sim)))
    assert not is_new
    assert again.revision == first.revision
    assert again.created_at_ms == first.created_at_ms < again.updated_at_ms


def test_more_guarantees_than_gpus_are_refused_and_lowering_one_makes_room(sim: Sim) -> None:
    sure = ScalePolicy(min_workers=2, max_workers=2)  # of the box's two GPUs
    sim.deploy("first", sure)
    with pytest.raises(Conflict, match=r"first 2, second 2.*min_workers"):
        sim.deploy("second", sure)
    assert EndpointName("second") not in sim.up.fleet.state.endpoints
    sim.deploy("first", ScalePolicy(max_workers=1))
    sim.deploy("second", sure)


def test_the_only_exposed_port_is_taken(sim: Sim) -> None:
    endpoint, _ = sim.do(_catalog(sim).deploy(_spec(sim, ports=(7000,))))
    assert endpoint.spec.port == 7000


@pytest.mark.parametrize(("ports", "words"), [((), "no port"), ((1, 2), "exposes 1, 2")])
def test_a_port_that_cannot_be_known_must_be_said(sim: Sim, ports: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words) as caught:
        sim.do(_catalog(sim).deploy(_spec(sim, ports=ports)))
    assert "port" in caught.value.fields
    sim.do(_catalog(sim).deploy(_spec(sim, ports=ports, port=1234)))


def test_an_image_in_a_registry_is_pulled_to_learn_its_port(sim: Sim) -> None:
    sim.images.push("registry.example/echo:1", ports=(7000,))
    spec = replace(sim.spec("echo", image="registry.example/echo:1", gpus=1), port=0)
    endpoint, _ = sim.do(_catalog(sim).deploy(spec))
    assert endpoint.spec.port == 7000


def test_more_gpus_than_the_box_has_are_refused(sim: Sim) -> None:
    with pytest.raises(InvalidSpec, match="3 GPUs; this box has 2 such of 2 in all"):
        sim.do(_catalog(sim).deploy(_spec(sim, gpus=3)))


def test_an_image_that_does_not_exist_is_refused(sim: Sim) -> None:
    with pytest.raises(ImageNotFound):
        sim.do(_catalog(sim).deploy(sim.spec("echo", image="registry.example/none:1", gpus=1)))
    assert sim.up.fleet.state.endpoints == {}


def test_a_name_that_another_endpoint_has_as_an_alias_is_refused(sim: Sim) -> None:
    sim.do(_catalog(sim).deploy(replace(_spec(sim), aliases=("gpt",))))
    for other in (
        {"name": "gpt"},
        {"name": "other", "aliases": ("gpt",)},
        {"name": "b", "aliases": ("echo",)},
    ):
        with pytest.raises(Conflict, match="Choose another alias"):
            sim.do(_catalog(sim).deploy(replace(_spec(sim), **other)))


def test_an_unknown_name_is_answered_with_near_ones(sim: Sim) -> None:
    sim.do(_catalog(sim).deploy(_spec(sim)))
    with pytest.raises(NotFound, match="Did you mean echo"):
        _catalog(sim).endpoint("ehco")
    with pytest.raises(NotFound, match="gpud endpoint ls"):
        sim.do(_catalog(sim).delete_endpoint(EndpointName("unlike")))
    with pytest.raises(NotFound, match="gpud worker ls"):
        _catalog(sim).worker("wk_unlike")


def test_an_image_in_use_is_not_removed(sim: Sim) -> None:
    endpoint, _ = sim.do(_catalog(sim).deploy(_spec(sim)))
    with pytest.raises(Conflict, match="used by echo"):
        sim.do(_catalog(sim).remove_image(endpoint.image.pin))
    sim.do(_catalog(sim).delete_endpoint(_ECHO))
    sim.do(_catalog(sim).remove_image(endpoint.image.pin))
    assert sim.do(_catalog(sim).images()) == ()


def test_an_image_that_was_pulled_says_when_it_was_last_needed(sim: Sim) -> None:
    built = sim.images.build("mine:1")
    pulled = sim.images.push("echo:1")
    sim.do(_catalog(sim).deploy(replace(sim.spec("echo", image="echo:1", gpus=0), port=8000)))
    sim.do(_catalog(sim).prewarm("echo:1", ""))
    sim.run(for_s=600)

    def used_at_ms() -> dict[str, int | None]:
        return {one.pins[-1]: one.used_at_ms for one in sim.do(_catalog(sim).images())}

    last_ms = used_at_ms()[pulled]
    assert used_at_ms()[built] is None, "gpud did not pull it"
    assert last_ms is not None
    assert abs(last_ms - sim.ask(sim.box.clock.at_ms)) < 5000
    sim.do(_catalog(sim).delete_endpoint(_ECHO))
    sim.run(for_s=3600)
    later_ms = used_at_ms()[pulled]
    assert later_ms is not None
    assert later_ms - last_ms < 60_000, "nobody needs it any more"


def test_a_full_disk_refuses_changes_and_says_so(sim: Sim) -> None:
    sim.do(_catalog(sim).deploy(_spec(sim)))
    sim.box.disk.full = True
    sim.run(for_s=6)
    with pytest.raises(StorageFull):
        sim.do(_catalog(sim).delete_endpoint(_ECHO))
    health = sim.ask(_catalog(sim).health)
    assert not health.ready
    assert "full" in health.parts["store"]
    sim.box.disk.full = False
    sim.run(for_s=10)
    assert sim.ask(_catalog(sim).health).ready


def test_retry_forgets_the_failures(sim: Sim) -> None:
    sim.do(_catalog(sim).deploy(replace(_spec(sim), env=(("EXIT_AT_START", "3"),))))
    request = sim.request("echo")
    sim.run_until(lambda: request.outcome is not None, within_s=300)
    assert request.reason == "start-failed"
    view = sim.ask(lambda: _catalog(sim).endpoint("echo"))
    assert view.condition is EndpointCondition.FAILING
    assert "exited with code 3" in view.last_error
    sim.do(_catalog(sim).retry(_ECHO))
    assert sim.ask(lambda: _catalog(sim).endpoint("echo")).last_error == ""


def test_a_worker_is_drained_or_killed_as_asked(sim: Sim) -> None:
    sim.do(_catalog(sim).deploy(replace(_spec(sim), scale=ScalePolicy(max_workers=1, idle_timeout_s=5))))
    for force, state in ((False, WorkerState.DRAINING), (True, WorkerState.STOPPING)):
        request = sim.request("echo", takes_s=20)
        sim.run_until(lambda request=request: bool(request.served_by), within_s=30)
        [worker] = [w for w in sim.workers("echo") if w.state is WorkerState.READY]
        sim.runtime.stop_s = 1.0
        sim.do(_catalog(sim).stop_worker(worker.id, force=force))
        assert sim.up.fleet.state.workers[worker.id].state is state
        sim.run(for_s=60)
        assert request.outcome == ("broken" if force else "answered")


def test_an_endpoint_is_shown_as_it_is(sim: Sim) -> None:
    sim.runtime.boot_s = 5
    sim.do(_catalog(sim).deploy(replace(_spec(sim), scale=ScalePolicy(max_workers=1, concurrency=1))))
    assert [view.condition for view in sim.ask(_catalog(sim).endpoints)] == [EndpointCondition.SLEEPING]
    for _ in range(3):
        sim.request("echo", takes_s=10)
    sim.run(for_s=1)
    view = sim.ask(lambda: _catalog(sim).endpoint("echo"))
    assert (view.condition, view.waiting, view.desired) == (EndpointCondition.STARTING, 3, 1)
    assert [wait.reason for wait in view.waits] == ["worker_starting"]
    sim.run(for_s=6)
    view = sim.ask(lambda: _catalog(sim).endpoint("echo"))
    assert (view.condition, view.waiting, view.in_flight) == (EndpointCondition.READY, 2, 1)
    held, free = sim.do(_catalog(sim).gpus())
    assert ([w.endpoint for w in held.holders], free.holders) == ([_ECHO], ())


def test_prewarming_answers_at_once_and_pulls_behind(sim: Sim) -> None:
    pin = sim.images.push("registry.example/big:1")
    sim.images.pull_s = 100
    assert sim.do(_catalog(sim).prewarm("registry.example/big:1", "")) == pin
    assert not sim.images.has(pin)
    sim.run(for_s=101)
    assert sim.images.has(pin)
