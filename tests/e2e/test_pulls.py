"""Images from registries: pulled with progress, before any GPU is taken, and pinned for good."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until
from tests.rig.fixtures import PRIVATE_REGISTRY_PASSWORD
from tests.rig.images import build_image
from tests.rig.throttle import ThrottlingProxy

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.rig.engine import Engine
    from tests.rig.registry import Registry

pytestmark = pytest.mark.e2e

_LAYER_BYTES = 3_000_000
_SLOW_BYTES_PER_S = 1_500_000


def _push_new_worker(
    engine: Engine, registry: Registry, worker_image: str, repository: str, mark: str
) -> str:
    """Put a worker image of its own into a registry, and not on the engine; returns its digest."""
    dockerfile = f"FROM {worker_image}\nCOPY layer /layer\nENV MARK={mark}\n"
    files = {"Dockerfile": dockerfile.encode(), "layer": os.urandom(_LAYER_BYTES)}
    local = f"gpud/e2e-{os.urandom(4).hex()}:1"
    build_image(engine, local, files)
    pushed = registry.push(engine, local, repository, tag="live")
    engine.client.images.remove(local, force=True)
    return pushed.partition("@")[2]


def _forget(engine: Engine, pin: str) -> None:
    engine.client.images.remove(engine.client.images.get(pin).id, force=True)


def test_a_pull_is_shown_apart_from_the_start_and_takes_no_gpu(
    start_daemon: DaemonStarter, engine: Engine, registry: Registry, worker_image: str
) -> None:
    repository = f"team/slow-{os.urandom(4).hex()}"
    digest = _push_new_worker(engine, registry, worker_image, repository, "slow")
    daemon = start_daemon(settings=static_gpus(1))
    with ThrottlingProxy(registry.port) as network, ThreadPoolExecutor(20) as clients:
        network.bytes_per_s = _SLOW_BYTES_PER_S
        image = f"127.0.0.1:{network.port}/{repository}:live"
        document = daemon.deploy(worker_spec("slow", image, scale={"concurrency": 20}))
        assert document["image"]["pin"].endswith(f"@{digest}")
        answers = [clients.submit(daemon.call, "slow") for _ in range(20)]

        (worker,) = until(lambda: daemon.workers("slow", state="pulling"), what="the worker is pulling")
        assert worker["gpu_uuids"] == []
        assert daemon.endpoint("slow")["condition"] == "pulling"
        assert {wait["reason"] for wait in daemon.endpoint("slow")["waits"]} == {"image_pulling"}
        pull = until(lambda: daemon.get("/v1/pulls")["items"], what="the pull is listed")[0]
        assert pull["pin"] == document["image"]["pin"]
        progress = until(
            lambda: (p := daemon.endpoint("slow")["pull"]) and 0 < p["bytes_done"] < p["bytes_total"] and p,
            what="progress is told",
        )
        assert progress["layers"] > progress["layers_done"] >= 0
        assert daemon.rows("SELECT * FROM gpu_lease") == [], "no GPU is held during a pull"
        assert daemon.gpus()["GPU-static-0"]["worker_id"] is None

        replies = [answer.result(timeout=30) for answer in answers]

    assert [(reply.status, reply.worker) for reply in replies] == [(200, worker["id"])] * 20
    (pulled,) = daemon.events("image.pulled")
    (reserved,) = daemon.events("worker.reserved", worker_id=worker["id"])
    assert pulled["seq"] < reserved["seq"]
    assert len(daemon.events("image.pull_started")) == 1, "one pull serves deploy and worker"
    assert daemon.events("image.pull_progressed")
    assert daemon.get("/v1/pulls")["items"] == []
    usage = daemon.get("/v1/usage?by=worker")["items"][0]
    assert set(usage["phases_ms"]) <= {"setup", "start", "active", "idle"}, "the pull is not metered"
    daemon.clean_up()
    _forget(engine, document["image"]["pin"])


def test_a_retagged_image_does_not_change_what_runs(
    start_daemon: DaemonStarter, engine: Engine, registry: Registry, worker_image: str
) -> None:
    repository = f"team/moving-{os.urandom(4).hex()}"
    first_digest = _push_new_worker(engine, registry, worker_image, repository, "first")
    daemon = start_daemon(settings=static_gpus(1))
    image = f"{registry.address}/{repository}:live"
    spec = worker_spec("moving", image, scale={"idle_timeout_s": 0})
    first = daemon.deploy(spec)
    worker = daemon.call("moving").worker
    daemon.wait_zero("moving")

    second_digest = _push_new_worker(engine, registry, worker_image, repository, "second")
    assert second_digest != first_digest
    reply = daemon.call("moving")
    assert reply.worker != worker
    container = daemon.container_of(reply.worker)
    assert "MARK=first" in container.attrs["Config"]["Env"], "the new worker runs what was deployed"
    assert daemon.endpoint("moving")["revision"] == first["revision"]

    second = daemon.deploy(spec)
    assert second["revision"] != first["revision"]
    assert second["image"]["pin"].endswith(f"@{second_digest}")
    until(
        lambda: "MARK=second" in daemon.container_of(daemon.call("moving").worker).attrs["Config"]["Env"],
        what="a deploy takes the tag anew",
    )
    daemon.clean_up()
    for document in (first, second):
        _forget(engine, document["image"]["pin"])


def test_a_private_image_is_pulled_with_credentials_that_are_shown_nowhere(
    start_daemon: DaemonStarter, engine: Engine, private_registry: Registry, worker_image: str
) -> None:
    repository = f"team/private-{os.urandom(4).hex()}"
    _push_new_worker(engine, private_registry, worker_image, repository, "private")
    daemon = start_daemon(settings={**static_gpus(1), "log": {"level": "debug"}})
    login = ("registry", "login", "team", "--host", private_registry.address, "--username", "alice")
    assert daemon.cli(*login, stdin=f"{PRIVATE_REGISTRY_PASSWORD}\n").returncode == 0

    image = f"{private_registry.address}/{repository}:live"
    document = daemon.deploy(worker_spec("private", image, registry="team"))
    reply = daemon.call("private")

    assert reply.status == 200, reply
    shown = [
        daemon.log_text(),
        *(daemon.api("GET", path).body.decode() for path in _EVERY_LIST),
        daemon.cli("registry", "ls").stdout,
        str(daemon.container_of(reply.worker).attrs),
        *(path.read_bytes().decode("latin-1") for path in daemon.data_dir.rglob("*") if path.is_file()),
    ]
    assert all(PRIVATE_REGISTRY_PASSWORD not in text for text in shown)
    assert daemon.cli("registry", "rm", "team").returncode != 0, "an endpoint uses it"
    daemon.clean_up()
    _forget(engine, document["image"]["pin"])


def test_a_pull_that_breaks_is_told_and_tried_again(
    start_daemon: DaemonStarter, engine: Engine, registry: Registry, worker_image: str
) -> None:
    repository = f"team/torn-{os.urandom(4).hex()}"
    _push_new_worker(engine, registry, worker_image, repository, "torn")
    daemon = start_daemon(settings={**static_gpus(1), "docker": {"pull_stall_timeout_s": 1}})
    with ThrottlingProxy(registry.port) as network:
        network.bytes_per_s = _SLOW_BYTES_PER_S
        document = daemon.deploy(worker_spec("torn", f"127.0.0.1:{network.port}/{repository}:live"))
        until(lambda: daemon.get("/v1/pulls")["items"], what="the pull has begun")
        network.stalled = True
        line = until(lambda: daemon.log_lines("image.pull_postponed"), what="the stall is told")[0]
        assert "made no progress for 1 s" in line["error"]
        network.stalled, network.bytes_per_s = False, None
        assert daemon.call("torn").status == 200, "it is tried again"
    daemon.clean_up()
    _forget(engine, document["image"]["pin"])


_EVERY_LIST = (
    "/v1/registries",
    "/v1/endpoints",
    "/v1/events?limit=500",
    "/v1/settings",
    "/v1/images",
    "/v1/workers?include_gone=true",
)
