"""Jobs on the real daemon and real containers: they survive its death and theirs, each with one end."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.http_client import UnixConnection, exchange
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.long]

_JOBS = 2000
_SUBMITTERS = 16
_DAEMONS = 8
_WORKERS = 4
_KILL_DAEMON_S = 2.0
_KILL_WORKER_S = 3.0


class Chaos:
    """Kills the daemon and a worker again and again, each at its own pace."""

    def __init__(self, daemon: DaemonProcess, *, seed: int) -> None:
        self._daemon = daemon
        self._rng = random.Random(seed)
        self.daemons = self.workers = 0

    def run(self) -> None:
        """Until enough of both were killed, however slow the machine is."""
        began_s = time.monotonic()
        next_worker_s = began_s + _KILL_WORKER_S
        while (self.daemons < _DAEMONS or self.workers < _WORKERS) and time.monotonic() - began_s < 120:
            time.sleep(_KILL_DAEMON_S)
            if time.monotonic() >= next_worker_s:
                self._kill_worker()
                next_worker_s += _KILL_WORKER_S
            self._daemon.kill()
            self.daemons += 1
            self._daemon.start(wait="/livez")

    def _kill_worker(self) -> None:
        running = [c for c in self._daemon.containers() if c.status == "running"]
        if running:
            victim = self._rng.choice(running)
            try:
                victim.kill()
            except Exception:  # noqa: BLE001 - it ended by itself a moment ago
                return
            self.workers += 1


class Receiver(ThreadingHTTPServer):
    """Takes webhooks on loopback and keeps their ids, by the job each tells of."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.ids: dict[str, set[str]] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def settings(self) -> dict[str, Any]:
        """What lets gpud call it."""
        return {
            "webhooks": {
                "http_hosts": ["127.0.0.1"],
                "networks": ["127.0.0.0/8"],
                "ports": [self.server_port],
            }
        }


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Receiver)
        self.server.ids.setdefault(body["data"]["id"], set()).add(self.headers["webhook-id"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def submit(daemon: DaemonProcess, number: int, accepted: dict[int, str]) -> None:
    """Submit until it is accepted; the key makes that safe to repeat."""
    while number not in accepted:
        connection = UnixConnection(daemon.run_dir / "api.sock", timeout_s=10)
        headers = {"Idempotency-Key": f"job-{number}"}
        body = json.dumps({"input": number}).encode()
        try:
            reply = exchange(connection, "POST", "/v2/tasks/run", body=body, headers=headers)
        except OSError:
            time.sleep(0.05)
            continue
        if reply.status == 200:
            accepted[number] = json.loads(reply.body)["id"]
        else:
            assert reply.status in (429, 503, 507), reply.body
            time.sleep(0.05)


def test_two_thousand_jobs_outlive_a_daemon_and_workers_that_are_killed_again_and_again(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    receiver = Receiver()
    daemon = start_daemon(settings=static_gpus(2) | receiver.settings())
    hook = {"url": f"http://127.0.0.1:{receiver.server_port}/", "types": ["job.*"], "endpoint": "tasks"}
    assert daemon.api("POST", "/v1/webhooks", hook).status == 201
    scale = {"min_workers": 2, "max_workers": 2, "policy": "fixed", "concurrency": 8}
    jobs = {"path": "/delay/0.05", "max_attempts": 25}
    daemon.deploy(worker_spec("tasks", worker_image, scale=scale, jobs=jobs))
    daemon.wait_ready("tasks", 2)
    accepted: dict[int, str] = {}
    chaos = Chaos(daemon, seed=7)
    killing = threading.Thread(target=chaos.run)
    killing.start()
    with ThreadPoolExecutor(_SUBMITTERS) as submitters:
        for done in [submitters.submit(submit, daemon, n, accepted) for n in range(_JOBS)]:
            done.result()
    killing.join()
    assert chaos.daemons >= _DAEMONS
    assert chaos.workers >= _WORKERS
    until(
        lambda: not daemon.rows("SELECT 1 FROM job WHERE state IN ('IN_QUEUE', 'IN_PROGRESS') LIMIT 1"),
        what="every job is over",
        within_s=120,
    )
    rows = daemon.rows("SELECT id, state, attempt, deliveries, max_attempts, reason FROM job")
    assert len(set(accepted.values())) == _JOBS
    assert {row["id"] for row in rows} == set(accepted.values())
    assert {row["state"] for row in rows} == {"COMPLETED"}, [
        dict(row) for row in rows if row["state"] != "COMPLETED"
    ]
    assert all(1 <= row["attempt"] <= row["deliveries"] <= row["max_attempts"] + 10 for row in rows)
    (total,) = daemon.rows("SELECT count FROM job_total WHERE endpoint = 'tasks' AND ending = 'completed'")
    assert total["count"] == _JOBS, "no job was completed twice"
    outputs = daemon.rows("SELECT count(*) AS n FROM job_payload WHERE kind = 'result'")
    assert outputs[0]["n"] == _JOBS
    waiting = "SELECT 1 FROM webhook_delivery WHERE state = 'waiting' LIMIT 1"
    until(lambda: not daemon.rows(waiting), what="every webhook is called", within_s=60)
    receiver.shutdown()
    receiver.server_close()
    assert receiver.ids.keys() == set(accepted.values())
    told = [message_id for ids in receiver.ids.values() for message_id in ids]
    assert len(told) == len(set(told)) == _JOBS, "one webhook id for each job"
    daemon.audit()


def test_a_job_wakes_an_endpoint_from_zero_and_its_worker_is_replaced_when_the_daemon_was_killed(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    scale = {"max_workers": 1, "concurrency": 1}
    daemon.deploy(worker_spec("slow", worker_image, scale=scale, jobs={"max_attempts": 1}))
    connection = UnixConnection(daemon.run_dir / "api.sock", timeout_s=30)
    asked = exchange(connection, "POST", "/e/slow/delay/3", body=b"1", headers={"Prefer": "respond-async"})
    assert asked.status == 202, asked
    job_id = asked.json()["id"]

    def state() -> str:
        return str(daemon.get(f"/v1/jobs/{job_id}")["state"])

    until(lambda: state() == "IN_PROGRESS", what="the job runs", within_s=90)
    first = daemon.get(f"/v1/jobs/{job_id}")["worker"]
    daemon.kill()
    daemon.start()
    until(lambda: state() == "COMPLETED", what="the job is done", within_s=120)
    job = daemon.get(f"/v1/jobs/{job_id}")
    assert (job["attempt"], job["deliveries"]) == (1, 2)
    assert job["worker"] != first
    assert [a["reason"] for a in job["attempts"]] == ["daemon_restarted", ""]
    daemon.audit()
    (used,) = daemon.get("/v1/usage/jobs")["items"]
    assert (used["id"], used["worker"], used["state"]) == (job_id, job["worker"], "COMPLETED")
    assert 0 < used["cold_start_ms"] <= used["queue_ms"]
    assert used["gpu_ms"] == job["gpu_ms"] >= 3000
    lines = daemon.cli("usage", "--export", "csv", "--jobs").stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", job_id]
    starts = daemon.get("/v1/endpoints/slow/starts")["items"]
    assert starts
    assert {start["wanted"] for start in starts} == {"1 job waited. Rule: concurrency."}
