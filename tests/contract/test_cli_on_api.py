"""The command line on the real API: names, paths and documents of the two agree."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import structlog.testing
from aiohttp import web

from gpud.cli import exits
from gpud.cli.main import run
from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.records import EndpointSaved, EventRecorded, WorkerInserted
from gpud.core.worker import WorkerState
from gpud.ports.images import LocalImage, PullProgress
from tests.contract.api_site import NOBODY, ApiSite, running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass(kw_only=True)
class Ran:
    """A command that ran."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Gpud(Protocol):
    """Runs `gpud` with these words beside the API."""

    async def __call__(self, *words: str) -> Ran: ...


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        assert site.client.server.runner is not None
        unix = web.UnixSite(site.client.server.runner, str(tmp_path / "api.sock"))
        await unix.start()
        monkeypatch.setenv("GPUD_SOCKET", str(tmp_path / "api.sock"))
        with structlog.testing.capture_logs():  # A daemon's log is not in its client's output.
            yield site
        await unix.stop()


@pytest.fixture
def gpud(capfd: pytest.CaptureFixture[str]) -> Gpud:
    async def runs(*words: str) -> Ran:
        capfd.readouterr()
        code = await asyncio.to_thread(run, list(words))
        out, err = capfd.readouterr()
        return Ran(code=code, out=out, err=err)

    return runs


async def _deployed(gpud: Gpud, name: str = "llm", *words: str) -> Any:
    ran = await gpud("deploy", "repo/image:1", "--name", name, "--no-wait", "--json", *words)
    assert (ran.code, ran.err) == (0, "")
    return ran.document


async def test_a_dry_run_tells_what_would_be_and_deploys_nothing(site: ApiSite, gpud: Gpud) -> None:
    words = ("deploy", "repo/image:1", "--name", "llm", "--dry-run")
    ran = await gpud(*words)
    assert ran.code == 0
    assert site.control.deployed == {}
    for told in (
        "llm would be created",
        "The image would be pulled first.",
        "A worker would start at once on GPU-0.",
        "wk_bbbbbbbbbbbbbbbb of other would give way in 12 s, and finishes its requests first.",
        "Held by other.",
        "A first worker is expected in 40 s (as it usually takes).",
    ):
        assert told in ran.out
    found = (await gpud(*words, "--json")).document
    assert found["evictions"] == [
        {"worker_id": "wk_bbbbbbbbbbbbbbbb", "endpoint": "other", "in_s": 12.3, "busy": True}
    ]
    assert (found["expected_ready_in_s"], found["wait"]["reason"]) == (40.0, "waiting_for_gpu")
    refused = await gpud("deploy", "missing:1", "--name", "llm", "--dry-run")
    assert refused.code != 0
    assert "There is no image missing:1" in refused.err


async def test_every_option_of_a_deploy_arrives(site: ApiSite, gpud: Gpud) -> None:
    endpoint = await _deployed(
        gpud,
        "llm",
        *("--port", "8001", "--gpus", "2", "--gpu-least-memory-mib", "1000", "--gpu-model", "Fake"),
        *("--min-workers", "1", "--max-workers", "3", "--policy", "fixed", "--concurrency", "4"),
        *("--idle-timeout", "90s", "--priority", "5", "--env", "A=1", "--volume", "vol:/v:ro"),
        *("--health-path", "/up", "--start-timeout", "2m", "--request-timeout", "1h", "--alias", "m"),
        *("--public", "--cpus", "1.5", "--memory-mib", "512", "--shm-mib", "64", "--", "serve", "--fast"),
    )
    spec = site.control.endpoint("llm").endpoint.spec
    assert (spec.command, spec.port, spec.aliases, spec.public) == (("serve", "--fast"), 8001, ("m",), True)
    assert (spec.gpus.count, spec.gpus.least_memory_mib, spec.gpus.model) == (2, 1000, "Fake")
    assert (spec.scale.min_workers, spec.scale.max_workers, spec.scale.concurrency) == (1, 3, 4)
    assert (spec.scale.idle_timeout_s, spec.scale.priority) == (90, 5)
    assert (spec.health.path, spec.health.start_timeout_s) == ("/up", 120)
    assert (spec.limits.cpus, spec.limits.memory_mib, spec.limits.request_timeout_s) == (1.5, 512, 3600)
    assert spec.volumes[0].read_only
    assert endpoint["revision"] == site.control.endpoint("llm").endpoint.revision


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["--name", "Bad_Name"], "--name"),
        (["--port", "70000"], "--port"),
        (["--gpus", "-1"], "--gpus"),
        (["--gpus", "3"], "--gpus"),
        (["--gpu-memory-mib", "-1"], "--gpu-memory-mib"),
        (["--min-workers", "2"], "--min-workers"),
        (["--max-workers", "5000"], "--max-workers"),
        (["--concurrency", "0"], "--concurrency"),
        (["--idle-timeout", "30d"], "--idle-timeout"),
        (["--priority", "101"], "--priority"),
        (["--env", "CUDA_VISIBLE_DEVICES=0"], "--env CUDA_VISIBLE_DEVICES"),
        (["--volume", "/var/run/docker.sock:/s"], "--volume #1 source"),
        (["--volume", "vol:relative"], "--volume #1 target"),
        (["--health-path", "up"], "--health-path"),
        (["--start-timeout", "0"], "--start-timeout"),
        (["--request-timeout", "0"], "--request-timeout"),
        (["--cpus", "-1"], "--cpus"),
        (["--memory-mib", "1"], "--memory-mib"),
        (["--shm-mib", "0"], "--shm-mib"),
        (["--alias", ""], "--alias #1"),
    ],
)
async def test_a_wrong_value_is_told_under_the_option_it_came_with(
    words: list[str], label: str, site: ApiSite, gpud: Gpud
) -> None:
    ran = await gpud("deploy", "repo/image:1", "--name", "llm", *words)
    assert ran.code == exits.BAD_USAGE
    assert ran.out == ""
    what, fault = ran.err.rstrip("\n").split("\n")
    assert what == "gpud: The spec is not valid."
    assert fault.startswith(f"  {label}  ")
    assert site.control.deployed == {}


async def test_an_unknown_field_of_a_file_is_refused_by_name(
    site: ApiSite, gpud: Gpud, tmp_path: Path
) -> None:
    path = tmp_path / "endpoint.toml"
    path.write_text('name = "llm"\nimage = "x"\n[scale]\nmax_worker = 3\n')
    ran = await gpud("apply", "-f", str(path))
    assert ran.code == exits.BAD_USAGE
    assert "scale.max_worker  unknown field; did you mean 'max_workers'?" in ran.err
    assert site.control.deployed == {}


async def test_an_image_that_does_not_exist_is_not_found(site: ApiSite, gpud: Gpud) -> None:
    ran = await gpud("deploy", "repo/missing", "--name", "llm")
    assert (ran.code, ran.out) == (exits.NOT_FOUND, "")
    assert ran.err == "gpud: There is no image repo/missing, here or in its registry.\n"
    assert site.control.deployed == {}


async def test_apply_again_changes_nothing(site: ApiSite, gpud: Gpud, tmp_path: Path) -> None:
    path = tmp_path / "endpoint.toml"
    path.write_text('name = "llm"\nimage = "x"\n[scale]\nmax_workers = 3\n')
    told = [(await gpud("apply", "-f", str(path))).out for _ in range(2)]
    assert told == ["llm created\n", "llm unchanged\n"]
    path.write_text('name = "llm"\nimage = "x"\n[scale]\nmax_workers = 4\n')
    assert (await gpud("apply", "-f", str(path))).out == "llm updated: applies at once, no worker restarts\n"
    assert site.control.endpoint("llm").endpoint.spec.scale.max_workers == 4


async def test_endpoints_are_listed_shown_scaled_retried_and_removed(site: ApiSite, gpud: Gpud) -> None:
    await _deployed(gpud)
    site.control.add_worker("wk_aaaaaaaaaaaaaaaa", "llm", gpu_uuids=("GPU-0",), address="172.20.0.2")
    listed = await gpud("endpoint", "ls")
    assert listed.out.split("\n")[1].startswith("llm   ready    1/1    0-1")
    shown = await gpud("endpoint", "get", "llm")
    assert "wk_aaaaaaaaaaaaaaaa  llm       ready  GPU-0  172.20.0.2:8000" in shown.out
    scaled = await gpud("endpoint", "scale", "llm", "--min", "1", "--max", "2")
    assert scaled.out.startswith("llm: 1 to 2 workers")
    wrong = await gpud("endpoint", "scale", "llm", "--min", "3")
    assert wrong.code == exits.BAD_USAGE
    assert "  --min-workers  must be 0 to max_workers" in wrong.err
    assert (await gpud("endpoint", "retry", "llm")).code == 0
    assert site.control.retried == ["llm"]
    assert (await gpud("endpoint", "rm", "llm")).code == 0
    gone = await gpud("endpoint", "get", "llm")
    assert (gone.code, gone.err) == (exits.NOT_FOUND, "gpud: There is no endpoint named 'llm'.\n")


async def test_workers_are_listed_shown_and_stopped(site: ApiSite, gpud: Gpud) -> None:
    await _deployed(gpud)
    worker = site.control.add_worker("wk_aaaaaaaaaaaaaaaa", "llm", state=WorkerState.STARTING)
    saved = EndpointSaved(endpoint=site.control.endpoint("llm").endpoint)
    await site.store.fleet.record([saved, WorkerInserted(worker=worker)])
    assert worker.id in (await gpud("worker", "ls", "--endpoint", "llm", "--all")).out
    assert f"Container  gpud-{worker.id}" in (await gpud("worker", "get", worker.id)).out
    assert (await gpud("worker", "stop", worker.id, "--force")).code == 0
    assert site.control.stopped == [(WorkerId(worker.id), True)]
    assert (await gpud("worker", "stop", "wk_none")).code == exits.NOT_FOUND


async def test_gpus_are_listed_and_cordoned(site: ApiSite, gpud: Gpud) -> None:
    assert (await gpud("gpu", "cordon", "gpu-1")).code == 0
    listed = await gpud("gpu", "ls")
    assert "GPU-1 cordoned: by an operator" in listed.out
    assert (await gpud("gpu", "uncordon", "GPU-1")).code == 0
    rows = (await gpud("gpu", "ls", "--json")).document["items"]
    assert [row["health"] for row in rows] == ["healthy", "healthy"]
    assert site.control.gpu_statuses


async def test_images_are_prewarmed_listed_and_removed(site: ApiSite, gpud: Gpud) -> None:
    started = await gpud("image", "prewarm", "repo/image:1", "--no-wait", "--json")
    pin = started.document["pin"]
    site.control.running_pulls[pin] = PullProgress(layers=2, layers_done=1, bytes_total=10, bytes_done=5)
    image = LocalImage(
        id="sha256:" + "ab" * 32, pins=(pin,), references=("repo/image:1",), size_bytes=10, created_at_ms=1
    )
    command = [sys.executable, "-m", "gpud", "image", "prewarm", "repo/image:1"]
    waiting = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert waiting.stderr is not None
    async with asyncio.timeout(20):
        assert (await waiting.stderr.readline()).startswith(b"image: ")
        site.control.local_images[pin] = image
        del site.control.running_pulls[pin]
        out, _ = await waiting.communicate()
    assert out.decode() == f"repo/image:1 is on the box: {pin}\n"
    assert "repo/image:1" in (await gpud("image", "ls")).out
    would = await gpud("image", "gc", "--dry-run", "--all")
    assert (would.code, "would go" in would.out) == (0, True)
    assert (await gpud("image", "rm", pin)).code == 0
    refused = await gpud("image", "prewarm", "x", "--registry", "none")
    assert (refused.code, refused.err) == (exits.NOT_FOUND, "gpud: There is no registry named 'none'.\n")


async def test_a_key_that_was_made_works_until_it_is_disabled(
    site: ApiSite, gpud: Gpud, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await gpud("key", "create", "--label", "ci", "--scope", "read", "--expires", "2099-01-01")
    assert made.code == 0
    url = str(site.client.make_url("")).rstrip("/")
    monkeypatch.setenv("GPUD_KEY", made.out.strip())
    assert (await gpud("endpoint", "ls", "--url", url)).code == 0
    forbidden = await gpud("key", "ls", "--url", url)
    assert forbidden.code == exits.NOT_ALLOWED
    assert "this needs admin" in forbidden.err
    rows = (await gpud("key", "ls", "--json")).document["items"]
    mine = next(row for row in rows if row["label"] == "ci")
    assert (await gpud("key", "disable", mine["id"])).code == 0
    refused = await gpud("endpoint", "ls", "--url", url)
    assert refused.code == exits.NOT_ALLOWED
    assert "was disabled" in refused.err
    wrong = await gpud("key", "create", "--scope", "everything")
    assert wrong.code == exits.BAD_USAGE
    assert "  --scope #1  " in wrong.err


async def test_a_stranger_on_the_socket_is_told_whom_to_be(gpud: Gpud, tmp_path: Path) -> None:
    async with running_api(administrator_uids=NOBODY) as site:
        assert site.client.server.runner is not None
        unix = web.UnixSite(site.client.server.runner, str(tmp_path / "other.sock"))
        await unix.start()
        ran = await gpud("endpoint", "ls", "--socket", str(tmp_path / "other.sock"))
        await unix.stop()
    assert ran.code == exits.NOT_ALLOWED
    assert "Run this as root or as the daemon's user" in ran.err


async def test_registry_credentials_are_stored_listed_and_forgotten(
    site: ApiSite, gpud: Gpud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("s3cret\n"))
    stored = await gpud("registry", "login", "ghcr", "--host", "ghcr.io", "--username", "me")
    assert (stored.code, stored.err) == (0, "")
    credential = await site.store.access.registry("ghcr")
    assert credential is not None
    assert credential.password == "s3cret"
    assert "ghcr.io" in (await gpud("registry", "ls")).out
    assert (await gpud("registry", "rm", "ghcr")).code == 0
    assert (await gpud("registry", "rm", "ghcr")).code == exits.NOT_FOUND


async def test_usage_audit_and_status_are_told(site: ApiSite, gpud: Gpud) -> None:
    for by in ("endpoint", "worker", "gpu", "day", "hour"):
        assert (await gpud("usage", "--by", by, "--since", "24h")).code == 0
    assert (await gpud("audit")).out.startswith("The books hold")
    status = await gpud("status")
    assert status.code == 0
    assert "nothing about them is verified" in status.out
    site.control.parts["engine"] = "Docker does not answer."
    assert (await gpud("status")).code == exits.FAILED


async def test_events_are_listed_and_followed(site: ApiSite, gpud: Gpud) -> None:
    def event(kind: str) -> EventRecorded:
        return EventRecorded(kind=kind, at_ms=1_700_000_000_000, endpoint="llm", facts={"cause": "idle"})

    await site.store.fleet.record([event("worker.started"), event("worker.gone")])
    listed = await gpud("events")
    assert [line.split()[2] for line in listed.out.rstrip("\n").split("\n")] == [
        "worker.started",
        "worker.gone",
    ]
    command = [sys.executable, "-m", "gpud", "events", "-f", "--json", "-n", "1", "--endpoint", "llm"]
    following = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert following.stdout is not None
    async with asyncio.timeout(20):
        assert json.loads(await following.stdout.readline())["kind"] == "worker.gone"
        await site.store.fleet.record([event("worker.ready")])
        assert json.loads(await following.stdout.readline())["kind"] == "worker.ready"
        following.send_signal(signal.SIGINT)
        assert await following.wait() == exits.INTERRUPTED


async def test_a_listing_of_several_pages_is_read_whole(site: ApiSite, gpud: Gpud) -> None:
    names = [f"e{number:03}" for number in range(120)]
    for name in names:
        await site.control.deploy(EndpointSpec(name=EndpointName(name), image="x"))
    rows = (await gpud("endpoint", "ls", "--json")).document["items"]
    assert [row["name"] for row in rows] == names


async def test_doctor_and_support_bundle_ask_for_what_the_api_has(
    site: ApiSite, gpud: Gpud, tmp_path: Path
) -> None:
    await _deployed(gpud, "llm", "--env", "WORD=a-value-of-the-user")
    site.control.parts["engine"] = "Docker does not answer."
    (tmp_path / "gpud.toml").write_text("")
    config = ("--config", str(tmp_path / "gpud.toml"))
    checks = {check["check"]: check for check in (await gpud("doctor", "--json", *config)).document["checks"]}
    assert (checks["daemon"]["verdict"], checks["settings"]["verdict"]) == ("ok", "ok")
    assert (checks["daemon-engine"]["verdict"], checks["daemon-engine"]["found"]) == (
        "failed",
        "Docker does not answer.",
    )
    ran = await gpud("support-bundle", str(tmp_path / "b.tar.gz"), "--worker-logs", *config)
    assert ran.code == 0
    assert "did not tell" not in ran.err
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        texts = {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}
    assert b"gpud_ready" in texts["b/metrics.txt"]
    assert b'"WORD": "[redacted]"' in texts["b/endpoints.json"]
    assert not any(b"a-value-of-the-user" in text for text in texts.values())
