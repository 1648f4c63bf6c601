from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import PinnedImage
from gpud.errors import DependencyDown, ImageNotFound, ImagePullFailed, NotFound
from gpud.ports.images import RegistryCredential
from tests.fakes.faults import Fault, FaultKind

if TYPE_CHECKING:
    from gpud.fleet.prewarmer import Prewarmer
    from tests.sim.sim import Sim

_REFERENCE = "registry.example/echo:1"
_LOGIN = RegistryCredential(host="registry.example", username="me", password="secret")


def _image(sim: Sim, credential: RegistryCredential | None = None) -> PinnedImage:
    pin = sim.images.push(_REFERENCE, credential=credential)
    return PinnedImage(reference=_REFERENCE, pin=pin)


def _prewarmer(sim: Sim) -> Prewarmer:
    return sim.up.fleet.prewarmer


def test_many_who_want_an_image_share_one_pull(sim: Sim) -> None:
    image = _image(sim)
    sim.images.pull_s = 30
    pulls = sim.ask(lambda: [_prewarmer(sim).start(image, "") for _ in range(20)])
    sim.run(for_s=60)
    assert {pull.result() for pull in pulls} == {None}
    assert sim.images.pulls_begun == [image.pin]
    assert image.pin in sim.up.fleet.state.images_present


def test_an_image_that_is_here_is_not_pulled(sim: Sim) -> None:
    image = PinnedImage(reference="echo:1", pin=sim.images.build("echo:1"))
    sim.do(_prewarmer(sim).ensure(image, ""))
    assert sim.images.pulls_begun == []


def test_a_caller_that_leaves_does_not_end_the_pull(sim: Sim) -> None:
    image = _image(sim)
    sim.images.pull_s = 30
    waiting = sim.ask(lambda: sim.loop.create_task(_prewarmer(sim).ensure(image, "")))
    sim.run(for_s=1)
    waiting.cancel()
    sim.run(for_s=60)
    assert sim.images.has(image.pin)


def test_a_network_that_fails_is_tried_again_after_5_10_and_20_seconds(sim: Sim) -> None:
    image = _image(sim)
    sim.images.unplug()
    began_s = sim.now_s
    with pytest.raises(ImagePullFailed):
        sim.do(_prewarmer(sim).ensure(image, ""))
    assert sim.now_s - began_s == pytest.approx(35, abs=0.1)
    assert [facts["pin"] for facts in sim.events("image.pull_failed")] == [image.pin]


def test_a_network_that_returns_in_time_fails_nothing(sim: Sim) -> None:
    image = _image(sim)
    sim.images.unplug()
    sim.ask(lambda: sim.loop.call_later(12, sim.images.plug))
    sim.do(_prewarmer(sim).ensure(image, ""))
    assert sim.images.has(image.pin)
    assert sim.events("image.pull_failed") == []


@pytest.mark.parametrize("error", [ImageNotFound("no"), DependencyDown("away")])
def test_what_trying_again_cannot_help_is_told_at_once(sim: Sim, error: Exception) -> None:
    image = _image(sim)
    sim.images.faults.inject("pull", Fault(kind=FaultKind.ERROR_BEFORE, error=error))  # type: ignore[arg-type]
    began_s = sim.now_s
    with pytest.raises(type(error)):
        sim.do(_prewarmer(sim).ensure(image, ""))
    assert sim.now_s - began_s < 1


def test_a_stored_credential_is_used_and_a_name_nobody_stored_is_told(sim: Sim) -> None:
    image = _image(sim, _LOGIN)
    with pytest.raises(NotFound, match="gpud registry login"):
        sim.do(_prewarmer(sim).ensure(image, "mine"))
    sim.do(sim.up.store.access.put_registry("mine", _LOGIN, 0))
    sim.do(_prewarmer(sim).ensure(image, "mine"))
    assert sim.images.has(image.pin)


def test_progress_is_shown_while_it_lasts_and_each_layer_is_recorded(sim: Sim) -> None:
    image = _image(sim)
    sim.images.pull_s = 30
    sim.ask(lambda: _prewarmer(sim).start(image, ""))
    sim.run(for_s=15)
    shown = sim.up.fleet.control.pulls()[image.pin]
    assert (shown.layers, shown.layers_done, shown.bytes_done) == (3, 1, 1_000_000)
    sim.run(for_s=30)
    assert sim.up.fleet.control.pulls() == {}
    assert [facts["layers_done"] for facts in sim.events("image.pull_progressed")] == [0, 1, 2, 3]


def test_an_image_that_somebody_removed_is_pulled_again_when_it_is_needed(sim: Sim) -> None:
    sim.images.push(_REFERENCE)
    sim.deploy("echo", image=_REFERENCE)
    sim.run(for_s=1)
    [pin] = sim.images.pulls_begun
    sim.images.evict(pin)
    request = sim.request("echo")
    sim.run(for_s=30)
    assert request.outcome == "answered"
    assert sim.images.pulls_begun == [pin, pin]
