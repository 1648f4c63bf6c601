"""The Docker Engine is away at the start, or goes later: gpud says so, serves on, and recovers by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.clarity import assert_cli, assert_logged, assert_problem
from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until
from tests.rig.images import ensure_worker_image

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess
    from tests.rig.engine import PrivateEngine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def _engine_part(daemon: DaemonProcess) -> str:
    """What /readyz says about the engine; empty while all is well."""
    ready = daemon.api("GET", "/readyz")
    part = ready.json()["parts"]["engine"]
    assert ready.status == (200 if part == "ok" else 503)
    return "" if part == "ok" else part


def _wait_lost(daemon: DaemonProcess) -> str:
    return until(lambda: _engine_part(daemon), what="/readyz tells that the engine is away", within_s=20)


def _wait_returned(daemon: DaemonProcess) -> None:
    until(lambda: not _engine_part(daemon), what="/readyz tells that the engine is back", within_s=20)


def test_a_daemon_starts_without_an_engine_says_so_and_goes_on_when_it_comes(
    start_daemon: DaemonStarter, breakable_engine: PrivateEngine
) -> None:
    image = ensure_worker_image(breakable_engine)
    breakable_engine.halt()
    daemon = start_daemon(engine=breakable_engine, settings=static_gpus(1), wait="/livez")
    says = [f"The Docker Engine at {breakable_engine.socket_url}", "systemctl start docker"]

    until(lambda: all(words in _engine_part(daemon) for words in says), what="/readyz says what is away")
    reply = daemon.api("PUT", "/v1/endpoints/later", worker_spec("later", image))
    assert_problem(daemon, reply, status=503, slug="dependency-down", says=says)
    assert_cli(daemon.cli("deploy", image, "--name", "later", "--port", "8000"), code=1, says=says)
    assert_logged(daemon, "engine.unavailable", says=says)

    breakable_engine.start()

    _wait_returned(daemon)
    daemon.deploy(worker_spec("later", image))
    assert daemon.call("later").status == 200
    daemon.audit()


def test_workers_serve_on_while_the_engine_is_away_and_outlive_it_with_live_restore(
    start_daemon: DaemonStarter, breakable_engine: PrivateEngine
) -> None:
    image = ensure_worker_image(breakable_engine)
    breakable_engine.halt()
    breakable_engine.start(live_restore=True)
    daemon = start_daemon(engine=breakable_engine, settings=static_gpus(2))
    daemon.deploy(worker_spec("steady", image))
    daemon.deploy(worker_spec("asleep", image, limits={"queue_timeout_s": 60}))
    before = daemon.call("steady")
    container_id = daemon.container_of(before.worker).id

    breakable_engine.kill()
    _wait_lost(daemon)
    for _ in range(5):
        assert daemon.call("steady").worker == before.worker
    assert_logged(daemon, "engine.lost", says=["The Docker Engine"])
    # A worker cannot start now: held a while for a restart of the engine, then told.
    reply = daemon.call("asleep")
    assert_problem(
        daemon, reply, status=503, slug="dependency-down", says=["no worker can start", "docker info"]
    )
    assert_cli(daemon.cli("invoke", "asleep", "/echo"), code=1, says=["no worker can start"])

    breakable_engine.start()
    _wait_returned(daemon)
    assert daemon.call("asleep").status == 200
    after = daemon.call("steady")
    assert (after.worker, after.headers["x-gpud-cold-start"]) == (before.worker, "false")
    assert daemon.container_of(before.worker).id == container_id
    assert not daemon.events("worker.failed")
    daemon.audit()


def test_workers_that_die_with_the_engine_are_replaced_and_are_no_failures_of_theirs(
    start_daemon: DaemonStarter, breakable_engine: PrivateEngine
) -> None:
    image = ensure_worker_image(breakable_engine)
    breakable_engine.start()
    daemon = start_daemon(engine=breakable_engine, settings=static_gpus(1))
    daemon.deploy(worker_spec("hit", image))
    before = daemon.call("hit")

    breakable_engine.kill(containers=True)
    _wait_lost(daemon)
    breakable_engine.start()
    _wait_returned(daemon)

    after = daemon.call("hit")
    assert after.status == 200
    assert after.worker != before.worker
    (ended,) = [worker for worker in daemon.ended_workers() if worker["id"] == before.worker]
    assert not ended["failed"], ended
    assert daemon.endpoint("hit")["last_error"] == ""
    daemon.audit()


def test_a_frozen_engine_holds_up_neither_requests_nor_the_api(
    start_daemon: DaemonStarter, breakable_engine: PrivateEngine
) -> None:
    image = ensure_worker_image(breakable_engine)
    settings = {**static_gpus(1), "docker": {"call_timeout_s": 2}}
    daemon = start_daemon(engine=breakable_engine, settings=settings)
    daemon.deploy(worker_spec("steady", image))
    worker = daemon.call("steady").worker
    breakable_engine.freeze()
    try:
        reply = daemon.api("PUT", "/v1/endpoints/other", worker_spec("other", image))
        assert_problem(daemon, reply, status=503, slug="dependency-down", says=["did not answer in time"])
        assert daemon.call("steady").worker == worker
    finally:
        breakable_engine.thaw()
    _wait_returned(daemon)
    daemon.deploy(worker_spec("other", image))
