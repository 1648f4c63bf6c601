"""Images made for RunPod, run by the real SDK from the package index, on the real daemon and engine.

One daemon, and one container for each kind of handler; a generation of the SDK is installed once and kept.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import ROOT, DaemonProcess, static_gpus
from tests.e2e.http_client import UnixConnection, exchange
from tests.e2e.waiting import until
from tests.rig.images import cache_dir, ensure_base_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.engine import Engine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

HERE = Path(__file__).parent / "runpod"
NEWEST = "1.12.0"
OLDER = {"generate": "1.7.13", "answer": "1.6.2"}
"""Kinds of handlers, each with an earlier generation: a generator, and a coroutine."""
_LIMIT_S = 60.0


def sdk(version: str) -> Path:
    """The SDK of one generation with all it needs, installed into a folder that containers mount."""
    site = cache_dir() / f"runpod-{version}"
    with (cache_dir() / f"runpod-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not site.exists():
            part = site.with_suffix(f".{os.getpid()}")
            install = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:"]
            subprocess.run([*install, "--target", str(part), f"runpod=={version}"], check=True, timeout=200)
            part.rename(site)
    return site


def queue_spec(
    name: str, image: str, kind: str, *, version: str = NEWEST, gate: Path | None = None, **more: Any
) -> dict[str, Any]:
    gates = [{"source": str(gate), "target": "/gate"}] if gate else []
    return {
        "name": name,
        "image": image,
        "type": "queue",
        "command": ["python3", "/app/handler.py", kind],
        "env": {"PYTHONPATH": "/site", "PYTHONDONTWRITEBYTECODE": "1"},
        "volumes": [
            {"source": str(sdk(version)), "target": "/site", "read_only": True},
            {"source": str(HERE), "target": "/app", "read_only": True},
            *gates,
        ],
        "scale": {"max_workers": 1, "concurrency": 1, "idle_timeout_s": 600},
        "gpus": {"count": 0},
        **more,
    }


class Site:
    """The daemon with its endpoints."""

    def __init__(self, daemon: DaemonProcess, gate: Path) -> None:
        self.daemon = daemon
        self._gate = gate

    def open(self, name: str) -> None:
        """Let the jobs end that wait for this."""
        (self._gate / name).touch()

    def began(self, name: str, endpoint: str) -> bool:
        """Whether a handler has come to where it waits for this."""
        return (self._gate / f"{name}-{endpoint}.begun").exists()

    def run(self, endpoint: str, value: Any) -> str:
        reply = self.daemon.api("POST", f"/v2/{endpoint}/run", {"input": value})
        assert reply.status == 200, reply
        return str(reply.json()["id"])

    def ended(self, endpoint: str, job_id: str) -> dict[str, Any]:
        reply = self.daemon.api("GET", f"/v2/{endpoint}/status-sync/{job_id}?wait=60000", timeout_s=70)
        assert reply.status == 200, reply
        document: dict[str, Any] = reply.json()
        return document

    def result(self, endpoint: str, value: Any) -> dict[str, Any]:
        return self.ended(endpoint, self.run(endpoint, value))

    def openai(self, document: dict[str, Any]) -> tuple[int, str, str]:
        path = "/v2/stream/openai/v1/chat/completions"
        connection = UnixConnection(self.daemon.run_dir / "api.sock", timeout_s=_LIMIT_S)
        headers = {"Content-Type": "application/json"}
        reply = exchange(connection, "POST", path, body=json.dumps(document).encode(), headers=headers)
        return reply.status, reply.headers.get("content-type", ""), reply.body.decode()


def supervised(daemon: DaemonProcess) -> None:
    """Start it under the supervisor, which keeps its sockets open when it is killed."""
    with daemon.log_path.open("ab") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, "-m", "gpud", "serve", "--supervise", "--config", str(daemon.config)],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    await_ready(daemon)


def await_ready(daemon: DaemonProcess) -> None:
    until(lambda: daemon._answers("/readyz"), what="it is ready", within_s=_LIMIT_S)


def kill_daemon(daemon: DaemonProcess) -> None:
    """SIGKILL to the daemon itself, not to its supervisor."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def site(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    gate = tmp_path_factory.mktemp("gate")
    image = ensure_base_image(engine)
    settings = static_gpus(1)
    settings["paths"] = {"volume_roots": [str(cache_dir()), str(HERE), str(gate)]}
    daemon = DaemonProcess(engine, settings=settings, forked=True)
    supervised(daemon)
    try:
        daemon.deploy(queue_spec("plain", image, "plain", gate=gate))
        scale = {"max_workers": 1, "concurrency": 4, "idle_timeout_s": 600}
        daemon.deploy(queue_spec("stream", image, "stream", gate=gate, scale=scale))
        for kind, version in OLDER.items():
            daemon.deploy(queue_spec(kind, image, kind, version=version))
        made = Site(daemon, gate)
        # Each job wakes its endpoint, all of them at once.
        for endpoint in ("stream", *OLDER):
            made.run(endpoint, {"wakes": endpoint})
        yield made
    finally:
        if daemon.process is not None:
            daemon.terminate()
        daemon.clean_up()


def test_a_plain_handler_gets_the_job_as_sent_and_its_answer_is_the_output(site: Site) -> None:
    body = {"input": {"a": 1}, "s3Config": {"bucketName": "b"}, "policy": {"executionTimeout": 60_000}}
    reply = site.daemon.api("POST", "/v2/plain/runsync?wait=60000", body, timeout_s=70)
    said = reply.json()
    assert said["status"] == "COMPLETED", said
    assert said["output"]["given"] == {"a": 1}
    assert {"id", "input", "policy", "s3Config"} <= set(said["output"]["keys"])
    assert site.result("plain", {})["output"]["given"] == {}


def test_a_handler_that_raises_or_says_error_fails_its_job_with_what_it_said(site: Site) -> None:
    raised = site.result("plain", {"raise": "out of foxes"})
    assert raised["status"] == "FAILED"
    assert "out of foxes" in raised["error"]
    said = site.result("plain", {"error": "no such model"})
    assert (said["status"], said["error"], said["output"]) == ("FAILED", "no such model", {"partial": True})


def test_a_result_that_is_not_json_fails_its_job_and_says_so(site: Site) -> None:
    said = site.result("plain", {"unserialisable": True})
    assert said["status"] == "FAILED", said
    assert "may not be JSON" in said["error"]


def test_progress_is_shown_while_the_job_runs(site: Site) -> None:
    job_id = site.run("plain", {"progress": [25, 75], "gate": "progress"})
    seen = until(
        lambda: site.daemon.api("GET", f"/v2/plain/status/{job_id}").json().get("output"),
        what="progress is shown",
        within_s=_LIMIT_S,
    )
    assert seen in (25, 75)
    site.open("progress")
    assert site.ended("plain", job_id)["status"] == "COMPLETED"


def test_a_generator_streams_and_its_output_is_all_it_gave(site: Site) -> None:
    job_id = site.run("stream", {"count": 3})
    said = site.ended("stream", job_id)
    assert said["output"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    streamed = site.daemon.api("GET", f"/v2/stream/stream/{job_id}").json()
    assert [each["output"] for each in streamed["stream"]] == said["output"]


def test_a_worker_takes_as_many_jobs_at_once_as_it_says(site: Site) -> None:
    jobs = [site.run("stream", {"gate": "four", "count": 0}) for _ in range(4)]
    until(
        lambda: site.daemon.api("GET", "/v2/stream/health").json()["jobs"]["inProgress"] == 4,
        what="four jobs run at once",
        within_s=_LIMIT_S,
    )
    site.open("four")
    workers = {site.ended("stream", job)["workerId"] for job in jobs}
    assert len(workers) == 1


def test_a_cancelled_job_is_stopped_in_its_worker_which_goes_on(site: Site) -> None:
    job_id = site.run("stream", {"count": 0, "gate": "cancel"})
    # Begun, not only fetched: the SDK drops a stop that meets it in between, and is replaced then.
    until(partial(site.began, "cancel", "stream"), what="it runs", within_s=_LIMIT_S)
    worker = site.daemon.api("GET", f"/v2/stream/status/{job_id}").json()["workerId"]
    assert site.daemon.api("POST", f"/v2/stream/cancel/{job_id}").json()["status"] == "CANCELLED"
    until(
        lambda: site.daemon.api("GET", "/v2/stream/health").json()["workers"]["running"] == 0,
        what="the worker is free again",
        within_s=_LIMIT_S,
    )
    assert site.result("stream", {"count": 1})["workerId"] == worker


def test_openai_calls_become_jobs_and_their_output_the_answer(site: Site) -> None:
    status, kind, body = site.openai({"model": "m", "messages": []})
    assert (status, json.loads(body)["route"]) == (200, "/v1/chat/completions")
    status, kind, body = site.openai({"model": "m", "stream": True})
    assert (status, kind) == (200, "text/event-stream")
    assert body == 'data: {"delta":"a fox"}\n\ndata: {"delta":"jumps"}\n\ndata: [DONE]\n\n'
    status, _, body = site.openai({"model": "m", "fail": True})
    assert status == 422
    assert "too long" in json.loads(body)["error"]["message"]


def test_a_plain_generator_of_an_earlier_sdk_streams_and_its_output_is_all_it_gave(site: Site) -> None:
    job_id = site.run("generate", {"count": 3})
    said = site.ended("generate", job_id)
    assert said["status"] == "COMPLETED"
    assert said["output"] == [{"n": n, "version": OLDER["generate"]} for n in range(3)]
    streamed = site.daemon.api("GET", f"/v2/generate/stream/{job_id}").json()
    assert [each["output"] for each in streamed["stream"]] == said["output"]


def test_a_coroutine_of_an_earlier_sdk_answers(site: Site) -> None:
    said = site.result("answer", {"generation": 6})
    assert (said["status"], said["output"]) == (
        "COMPLETED",
        {"given": {"generation": 6}, "version": OLDER["answer"]},
    )


def test_runpods_own_client_works_unmodified(site: Site) -> None:
    env = os.environ | {
        "PYTHONPATH": str(sdk(NEWEST)),
        "RUNPOD_ENDPOINT_BASE_URL": f"http://127.0.0.1:{site.daemon.port}/v2",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "client.py"), site.daemon.key],
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["run_sync"]["given"] == {"a": "fox"}
    assert (told["output"]["given"], told["status"]) == ({"b": 1}, "COMPLETED")
    assert (told["failed"], told["async_status"]) == ("FAILED", "COMPLETED")
    assert told["stream"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert told["cancel"]["status"] == "CANCELLED"
    assert told["async_output"]["given"] == {"c": 2}
    assert set(told["health"]) == {"jobs", "workers"}


def test_a_worker_is_replaced_by_a_fresh_one_when_it_asks_for_that(site: Site) -> None:
    first = site.result("plain", {"refresh": 1})
    assert (first["status"], first["output"]) == ("COMPLETED", {"fresh": 1})
    second = site.result("plain", {"after": 1})
    assert second["status"] == "COMPLETED"
    assert second["workerId"] != first["workerId"]


def test_a_job_goes_on_while_the_daemon_is_killed_and_ends_once(site: Site) -> None:
    blocking = site.run("plain", {"gate": "restart"})
    streaming = site.run("stream", {"count": 0, "gate": "restart"})
    for endpoint in ("plain", "stream"):
        until(partial(site.began, "restart", endpoint), what="it runs", within_s=_LIMIT_S)
    before = {row["id"]: row for row in site.daemon.workers(state="ready")}
    kill_daemon(site.daemon)
    site.open("restart")  # the results are posted while nobody is there to take them
    await_ready(site.daemon)
    for endpoint, job_id in (("plain", blocking), ("stream", streaming)):
        said = site.ended(endpoint, job_id)
        assert said["status"] == "COMPLETED", said
        assert said["workerId"] in before
        (row,) = site.daemon.rows("SELECT deliveries, attempt FROM job WHERE id = ?", job_id)
        assert (row["deliveries"], row["attempt"]) == (1, 1)
    site.daemon.audit()


def test_a_forged_token_gets_nothing_from_the_listener(site: Site) -> None:
    address = (site.daemon.data_dir / "worker-listener").read_text().strip()
    assert not address.startswith(("0.0.0.0", "127."))  # noqa: S104 - the very thing that must not be
    worker = site.result("stream", {"count": 1})["workerId"]
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_LIMIT_S)
    path = f"/v2/stream/job-take/{worker}?gpu=x"
    reply = exchange(connection, "GET", path, headers={"Authorization": "forged"})
    assert reply.status == 401
    assert "not that of worker" in reply.json()["error"]
