"""The life of workers on a real engine: crashes, readiness, revisions, drains, stops and adoption."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clarity import assert_problem
from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until
from tests.rig.asking import address_of, ask

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def _turn(daemon: DaemonProcess, worker_id: str, **knobs: int) -> None:
    """Turn a worker's knobs at its own address, beside the gateway."""
    url = f"http://{address_of(daemon.container_of(worker_id))}:8000/control"
    assert ask(url, method="POST", body=json.dumps(knobs)).status == 200


def test_a_worker_that_crashes_mid_request_answers_502_and_is_replaced(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("fragile", worker_image))
    worker = daemon.call("fragile").worker

    reply = daemon.call("fragile", "/crash", method="POST", body=b"not to be sent twice")

    assert_problem(daemon, reply, status=502, slug="worker-unreachable", says=[worker])
    after = daemon.call("fragile")
    assert (after.status, after.worker != worker) == (200, True)
    failed = until(lambda: daemon.events("worker.failed", worker_id=worker), what="the crash is told")[0]
    assert failed["facts"]["cause"] == "exited"
    assert "exited with code 1" in failed["facts"]["detail"]
    daemon.audit()


def test_a_container_removed_behind_gpuds_back_is_replaced(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("stolen", worker_image))
    worker = daemon.call("stolen").worker
    daemon.container_of(worker).remove(force=True)
    until(lambda: worker not in {w["id"] for w in daemon.workers()}, what="its end is noticed")
    after = daemon.call("stolen")
    assert (after.status, after.worker != worker) == (200, True)
    daemon.audit()


def test_a_worker_that_runs_out_of_memory_is_told_so(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("greedy", worker_image, limits={"memory_mib": 64}))
    worker = daemon.call("greedy").worker
    reply = daemon.call("greedy", "/control", method="POST", body=b'{"allocate_mib": 512}')
    assert reply.status == 502
    failed = until(lambda: daemon.events("worker.failed", worker_id=worker), what="the end is told")[0]
    assert failed["facts"]["cause"] == "out_of_memory"
    assert "ran out of memory" in failed["facts"]["detail"]


def test_a_worker_that_ignores_sigterm_is_killed_after_its_grace(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    spec = worker_spec("stubborn", worker_image, env={"IGNORE_SIGTERM": 1}, limits={"stop_grace_s": 1})
    daemon.deploy(spec)
    worker = daemon.call("stubborn").worker
    assert daemon.api("DELETE", "/v1/endpoints/stubborn").status == 204
    daemon.wait_zero()
    (ended,) = daemon.ended_workers()
    assert (ended["id"], ended["exit_code"], ended["failed"]) == (worker, 137, False)
    (stop,) = daemon.rows("SELECT end_boot_ns - start_boot_ns AS ns FROM usage_segment WHERE phase = 'stop'")
    assert 0.9e9 < stop["ns"] < 6e9


def test_a_worker_that_loses_readiness_leaves_the_rotation_and_comes_back(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    health = {"period_s": 0.2, "fail_threshold": 2}
    daemon.deploy(worker_spec("moody", worker_image, health=health))
    worker = daemon.call("moody").worker

    _turn(daemon, worker, refuse_health=1)
    (unready,) = until(lambda: daemon.workers("moody", state="not_ready"), what="it is out of rotation")
    assert "GET /health answers 503" in unready["detail"]
    with ThreadPoolExecutor(1) as client:
        held = client.submit(daemon.call, "moody")
        until(lambda: daemon.endpoint("moody")["waiting"] == 1, what="a request is held meanwhile")
        _turn(daemon, worker, refuse_health=0)
        reply = held.result(timeout=15)
    assert (reply.status, reply.worker) == (200, worker)


def test_a_worker_that_stays_unready_is_replaced(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings=static_gpus(2))
    health = {"period_s": 0.2, "fail_threshold": 1, "not_ready_timeout_s": 0.5}
    daemon.deploy(worker_spec("lost", worker_image, health=health, scale={"min_workers": 1}))
    (worker,) = daemon.wait_ready("lost")
    _turn(daemon, worker["id"], refuse_health=1)
    until(lambda: worker["id"] not in {w["id"] for w in daemon.workers("lost")}, what="it is drained")
    daemon.wait_ready("lost")
    assert daemon.events("worker.failed", worker_id=worker["id"], cause="not_ready_timeout")


def test_a_new_revision_replaces_the_old_under_traffic_without_losing_a_request(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(2))
    daemon.deploy(worker_spec("rolling", worker_image, env={"VERSION": 1}))
    old = daemon.call("rolling").worker
    stopping, answers = threading.Event(), []

    def send() -> None:
        while not stopping.is_set():
            answers.append(daemon.call("rolling", "/delay/0.05"))

    with ThreadPoolExecutor(4) as clients:
        sending = [clients.submit(send) for _ in range(4)]
        daemon.deploy(worker_spec("rolling", worker_image, env={"VERSION": 2}))
        until(lambda: old not in {w["id"] for w in daemon.workers("rolling")}, what="the old worker is gone")
        done = len(answers)
        until(lambda: len(answers) > done + 20, what="the new worker serves")
        stopping.set()
        for one in sending:
            one.result(timeout=10)

    assert {answer.status for answer in answers} == {200}
    assert len({answer.worker for answer in answers}) == 2
    assert {answer.worker for answer in answers[-10:]}.isdisjoint({old})
    assert {answer.headers["x-gpud-cold-start"] for answer in answers} == {"false"}, "the old one served on"
    daemon.audit()


def test_on_a_full_box_a_new_revision_replaces_one_worker_at_a_time(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(2))
    scale = {"policy": "fixed", "max_workers": 2}
    daemon.deploy(worker_spec("full", worker_image, env={"VERSION": 1}, scale=scale))
    old = {worker["id"] for worker in daemon.wait_ready("full", 2)}
    stopping, answers = threading.Event(), []

    def send() -> None:
        while not stopping.is_set():
            answers.append(daemon.call("full", "/delay/0.05"))

    with ThreadPoolExecutor(2) as clients:
        sending = [clients.submit(send) for _ in range(2)]
        daemon.deploy(worker_spec("full", worker_image, env={"VERSION": 2}, scale=scale))
        until(
            lambda: len(new := {w["id"] for w in daemon.workers("full", state="ready")} - old) == 2 and new,
            what="two new workers serve",
        )
        stopping.set()
        for one in sending:
            one.result(timeout=10)

    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["x-gpud-cold-start"] for answer in answers} == {"false"}, "one always served"
    daemon.audit()


def test_with_one_gpu_a_new_revision_takes_the_place_of_the_old_and_requests_wait(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("single", worker_image, env={"VERSION": 1}))
    old = daemon.call("single").worker
    with ThreadPoolExecutor(2) as clients:
        running = clients.submit(daemon.call, "single", "/delay/1")
        until(lambda: daemon.endpoint("single")["in_flight"] == 1, what="a request is running")
        daemon.deploy(worker_spec("single", worker_image, env={"VERSION": 2}))
        waiting = clients.submit(daemon.call, "single")
        first, second = running.result(timeout=20), waiting.result(timeout=20)
    assert (first.status, first.worker) == (200, old), "what runs ends in peace"
    assert (second.status, second.worker != old) == (200, True)


def test_a_deleted_endpoint_finishes_what_runs(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("leaving", worker_image))
    assert daemon.call("leaving").status == 200
    with ThreadPoolExecutor(1) as client:
        running = client.submit(daemon.call, "leaving", "/delay/1")
        until(lambda: daemon.endpoint("leaving")["in_flight"] == 1, what="a request is running")
        assert daemon.api("DELETE", "/v1/endpoints/leaving").status == 204
        assert daemon.call("leaving").status == 404
        assert running.result(timeout=10).status == 200
    daemon.wait_zero()
    assert daemon.get("/v1/usage")["items"][0]["key"] == "leaving", "its usage stays"


def test_workers_stay_for_the_idle_timeout_and_no_longer(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("patient", worker_image, scale={"idle_timeout_s": 1.5}))
    daemon.call("patient", "/delay/0.3")
    daemon.wait_zero("patient")
    rows = daemon.rows("SELECT phase, end_boot_ns - start_boot_ns AS ns FROM usage_segment ORDER BY seq")
    last_idle_s = [row["ns"] / 1e9 for row in rows if row["phase"] == "idle"][-1]
    assert 1.4 < last_idle_s < 3.5


def test_an_operator_drains_one_worker_and_kills_another(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(2))
    spec = worker_spec("pair", worker_image, scale={"policy": "fixed", "max_workers": 2})
    daemon.deploy(spec)
    gentle, rough = (worker["id"] for worker in daemon.wait_ready("pair", 2))
    assert daemon.cli("worker", "stop", gentle).returncode == 0
    assert daemon.cli("worker", "stop", rough, "--force").returncode == 0
    until(lambda: {gentle, rough}.isdisjoint(w["id"] for w in daemon.workers()), what="both are gone")
    (drained,) = daemon.events("worker.draining")
    assert (drained["worker_id"], drained["facts"]["cause"]) == (gentle, "operator")
    (killed,) = daemon.events("worker.stopping", worker_id=rough)
    assert killed["facts"]["cause"] == "killed"
    assert not daemon.events("worker.failed")
    daemon.wait_ready("pair", 2)


def test_a_stopped_daemon_leaves_its_workers_and_the_next_adopts_them(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("kept", worker_image))
    before = daemon.call("kept")
    container = daemon.container_of(before.worker)

    assert daemon.terminate() == 0
    container.reload()
    assert container.status == "running"
    daemon.start()

    after = daemon.call("kept")
    assert (after.worker, after.headers["x-gpud-cold-start"]) == (before.worker, "false")
    assert daemon.container_of(before.worker).attrs["State"] == container.attrs["State"]
    (adopted,) = daemon.workers("kept")
    assert adopted["adopted"] is True
    phases = {row["phase"] for row in daemon.rows("SELECT phase FROM usage_segment")}
    assert "unsupervised" in phases
    daemon.audit()


def test_a_stopping_daemon_finishes_running_streams(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("story", worker_image))
    assert daemon.call("story").status == 200
    stream = daemon.stream("story", "/stream/20/50")
    lines = stream.lines()
    told = [next(lines)]
    with ThreadPoolExecutor(1) as ending:
        code = ending.submit(daemon.terminate)
        told += lines
        assert code.result(timeout=20) == 0
    stream.close()
    assert [json.loads(line.removeprefix(b"data: "))["index"] for line in told] == list(range(20))


def test_with_the_drain_policy_a_stopping_daemon_takes_its_workers_along(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings={**static_gpus(2), "docker": {"stop_policy": "drain"}})
    daemon.deploy(worker_spec("taken", worker_image, scale={"min_workers": 1}))
    daemon.wait_ready("taken")
    assert daemon.terminate() == 0
    assert daemon.containers() == []
    (row,) = daemon.rows("SELECT state, cause, exit_code, failed FROM worker")
    assert (row["state"], row["exit_code"], row["failed"]) == ("gone", 0, 0)
    daemon.start()
    daemon.wait_ready("taken")
    daemon.audit()
