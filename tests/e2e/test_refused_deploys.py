"""A deploy that cannot work is refused at once, by name, and changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.clarity import assert_cli, assert_logged, assert_problem
from tests.e2e.daemon import DaemonProcess, static_gpus, worker_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.engine import Engine
    from tests.rig.registry import Registry

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def daemon(engine: Engine) -> Iterator[DaemonProcess]:
    """One daemon for the whole module: what is refused leaves no trace that could matter to the next."""
    shared = DaemonProcess(engine, settings=static_gpus(2), forked=True)
    yield shared.start()
    shared.clean_up()


_WRONG_PASSWORD = "battery staple 9137"


def _assert_nothing_was_deployed(daemon: DaemonProcess) -> None:
    assert daemon.get("/v1/endpoints")["items"] == []
    assert daemon.containers() == []


def test_an_image_that_does_not_exist_is_refused(daemon: DaemonProcess, registry: Registry) -> None:
    image = f"{registry.address}/nobody/nothing:7"
    says = [f"There is no image {image} at the registry {registry.address}.", "Check the spelling"]

    reply = daemon.api("PUT", "/v1/endpoints/ghost", worker_spec("ghost", image))

    assert_problem(daemon, reply, status=404, slug="image-not-found", says=says)
    assert_cli(daemon.cli("deploy", image, "--name", "ghost", "--port", "8000"), code=3, says=says)
    assert_logged(daemon, "request.refused", path="/v1/endpoints/ghost", says=says)
    _assert_nothing_was_deployed(daemon)


def test_a_registry_that_is_away_is_named(daemon: DaemonProcess) -> None:
    image = "127.0.0.1:9/nobody/nothing:7"
    says = ["The registry 127.0.0.1:9 could not be used", "Check that this box reaches it"]

    reply = daemon.api("PUT", "/v1/endpoints/ghost", worker_spec("ghost", image))

    assert_problem(daemon, reply, status=502, slug="image-pull-failed", says=says)
    assert_cli(daemon.cli("deploy", image, "--name", "ghost", "--port", "8000"), code=1, says=says)
    assert_logged(daemon, "request.refused", says=says)
    _assert_nothing_was_deployed(daemon)


@pytest.mark.parametrize("stored", [False, True], ids=["without credentials", "with wrong credentials"])
def test_a_private_image_is_refused(
    daemon: DaemonProcess, private_registry: Registry, worker_image: str, stored: bool
) -> None:
    private_registry.push(daemon.engine, worker_image, "team/secret", tag="1")
    image = f"{private_registry.address}/team/secret:1"
    words: tuple[str, ...] = ()
    fields: dict[str, Any] = {}
    if stored:
        login = ("registry", "login", "team", "--host", private_registry.address, "--username", "alice")
        assert daemon.cli(*login, stdin=_WRONG_PASSWORD).returncode == 0
        words, fields = ("--registry", "team"), {"registry": "team"}
    says = [f"The registry {private_registry.address} refused access to {image}", "gpud registry login"]

    reply = daemon.api("PUT", "/v1/endpoints/secret", worker_spec("secret", image, **fields))

    assert_problem(daemon, reply, status=502, slug="registry-denied", says=says)
    ran = daemon.cli("deploy", image, "--name", "secret", "--port", "8000", *words)
    assert_cli(ran, code=1, says=says)
    assert_logged(daemon, "request.refused", says=says)
    assert _WRONG_PASSWORD not in daemon.log_text() + ran.stderr + reply.body.decode()
    _assert_nothing_was_deployed(daemon)


def test_a_registry_name_nobody_stored_is_refused(daemon: DaemonProcess, worker_image: str) -> None:
    says = ["No registry credential named 'nowhere' is stored.", "gpud registry login"]
    reply = daemon.api("PUT", "/v1/endpoints/a", worker_spec("a", worker_image, registry="nowhere"))
    assert_problem(daemon, reply, status=404, slug="not-found", says=says)
    ran = daemon.cli("deploy", worker_image, "--name", "a", "--registry", "nowhere")
    assert_cli(ran, code=3, says=says)
    assert_logged(daemon, "request.refused", says=says)
    _assert_nothing_was_deployed(daemon)


def test_more_gpus_than_the_box_has_are_refused(daemon: DaemonProcess, worker_image: str) -> None:
    says = ["a worker needs 3 GPUs", "this box has 2 such of 2 in all", "gpud gpu ls"]

    reply = daemon.api("PUT", "/v1/endpoints/big", worker_spec("big", worker_image, gpus={"count": 3}))

    assert_problem(daemon, reply, status=422, slug="invalid-spec", says=says)
    ran = daemon.cli("deploy", worker_image, "--name", "big", "--gpus", "3")
    assert_cli(ran, code=2, says=["--gpus", *says])
    assert_logged(daemon, "request.refused", says=says)
    _assert_nothing_was_deployed(daemon)


def test_an_unknown_field_is_refused_by_name(
    daemon: DaemonProcess, worker_image: str, tmp_path: Path
) -> None:
    spec = worker_spec("typo", worker_image, scale={"max_worker": 3})

    reply = daemon.api("PUT", "/v1/endpoints/typo", spec)

    assert_problem(daemon, reply, status=422, slug="invalid-spec", says=["scale.max_worker"])
    assert "max_workers" in reply.json()["fields"]["scale.max_worker"], "the nearest known name is told"
    file = tmp_path / "endpoint.toml"
    file.write_text(f'name = "typo"\nimage = "{worker_image}"\n[scale]\nmax_worker = 3\n')
    assert_cli(daemon.cli("apply", "-f", str(file)), code=2, says=["scale.max_worker", "max_workers"])
    assert_logged(daemon, "request.refused", says=["scale.max_worker"])
    _assert_nothing_was_deployed(daemon)


def test_an_image_that_exposes_no_port_asks_for_one(daemon: DaemonProcess, base_image: str) -> None:
    says = ["exposes no port", "--port"]
    spec = {"name": "portless", "image": base_image}
    reply = daemon.api("PUT", "/v1/endpoints/portless", spec)
    assert_problem(daemon, reply, status=422, slug="invalid-spec", says=says)
    assert_cli(daemon.cli("deploy", base_image, "--name", "portless"), code=2, says=["exposes no port"])
    _assert_nothing_was_deployed(daemon)


def test_a_body_that_is_not_json_is_refused(daemon: DaemonProcess) -> None:
    reply = daemon.api("PUT", "/v1/endpoints/a", None)
    assert reply.status in (400, 415), reply
    assert json.loads(reply.body)["detail"]
