"""Does the private engine run beside others, take GPU requests, break as told, and leave nothing behind?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker.types import DeviceRequest

from tests.rig import leftovers
from tests.rig.asking import address_of, answers, ask, wait_for_answer
from tests.rig.engine import RUN_ROOT, EngineFailed, PrivateEngine, engine_obstacle, remove_abandoned_engines
from tests.rig.images import STATIC_IMAGE, ensure_static_image

if TYPE_CHECKING:
    from tests.rig.engine import Engine
    from tests.rig.fixtures import ContainerStarter

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(engine_obstacle() is not None, reason=str(engine_obstacle())),
]
REPOSITORY = Path(__file__).parents[2]


def traces_of(engine: PrivateEngine) -> dict[str, str]:
    """All that tells of an engine on this host, by kind."""
    rules = [leftovers.run_quietly("iptables", "-t", table, "-S") for table in ("filter", "nat")]
    found = {
        "processes": " ".join(map(str, leftovers.processes_naming(str(engine.run_dir)))),
        "mounts": "\n".join(
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(engine.run_dir) in line or str(engine.data_root) in line
        ),
        "bridge": leftovers.run_quietly("ip", "-br", "link", "show", engine.bridge),
        "network": leftovers.run_quietly("ip", "-br", "link", "show", "gpudrigtest"),
        "rules": "\n".join(
            line for line in "\n".join(rules).splitlines() if engine.bridge in line or "gpudrigtest" in line
        ),
        "cgroups": " ".join(map(str, Path("/sys/fs/cgroup").glob(f"**/gpud-rig-{engine.name}"))),
        "folders": " ".join(str(path) for path in (engine.run_dir, engine.data_root) if path.exists()),
    }
    return {kind: text for kind, text in found.items() if text}


def test_a_device_request_pins_the_container_to_the_named_gpu(
    start_container: ContainerStarter, worker_image: str
) -> None:
    request = DeviceRequest(driver="nvidia", device_ids=["GPU-11112222"], capabilities=[["gpu"]])
    container = start_container(worker_image, device_requests=[request])
    url = f"http://{address_of(container)}:8000"
    wait_for_answer(f"{url}/health")
    assert ask(f"{url}/echo").json()["nvidia_visible_devices"] == "GPU-11112222"


def test_a_container_without_a_device_request_sees_no_gpu(
    start_container: ContainerStarter, worker_image: str
) -> None:
    container = start_container(worker_image)
    url = f"http://{address_of(container)}:8000"
    wait_for_answer(f"{url}/health")
    assert ask(f"{url}/echo").json()["nvidia_visible_devices"] is None


def test_containers_on_an_isolated_network_reach_the_host_but_not_each_other(
    engine: Engine, start_container: ContainerStarter, worker_image: str
) -> None:
    options = {"com.docker.network.bridge.enable_icc": "false"}
    network = engine.client.networks.create(f"rig-icc-{os.getpid()}", options=options)
    try:
        one = start_container(worker_image, network=network.name)
        other = start_container(worker_image, network=network.name)
        for container in (one, other):
            wait_for_answer(f"http://{address_of(container)}:8000/health")
        script = "import socket, sys; socket.create_connection((sys.argv[1], 8000), 0.5)"
        reached = one.exec_run(["python3", "-c", script, address_of(other)])
        itself = one.exec_run(["python3", "-c", script, address_of(one)])
        assert reached.exit_code != 0
        assert itself.exit_code == 0
    finally:
        for container in (one, other):
            container.remove(force=True)
        network.remove()


def test_an_engine_that_ran_containers_and_networks_leaves_nothing_behind() -> None:
    engine = PrivateEngine()
    with engine:
        ensure_static_image(engine)
        options = {"com.docker.network.bridge.name": "gpudrigtest"}
        engine.client.networks.create("own", options=options)
        engine.client.containers.run(STATIC_IMAGE, detach=True, network="own", ports={"8000/tcp": None})
        found = traces_of(engine)
        assert {"processes", "mounts", "bridge", "network", "rules", "folders", "cgroups"} <= set(found)
    assert traces_of(engine) == {}


def test_an_engine_killed_with_running_containers_leaves_nothing_behind() -> None:
    engine = PrivateEngine()
    with engine:
        ensure_static_image(engine)
        engine.client.networks.create("own", options={"com.docker.network.bridge.name": "gpudrigtest"})
        engine.client.containers.run(STATIC_IMAGE, detach=True, network="own")
        engine.kill()
    assert traces_of(engine) == {}


def test_containers_run_on_while_dockerd_is_dead_and_are_adopted_with_live_restore() -> None:
    with PrivateEngine(live_restore=True) as engine:
        ensure_static_image(engine)
        container = engine.client.containers.run(STATIC_IMAGE, detach=True)
        url = f"http://{address_of(container)}:8000/health"
        wait_for_answer(url)
        started_ns = ask(url).headers["x-main-ns"]
        engine.kill()
        assert not engine.answers()
        assert ask(url).headers["x-main-ns"] == started_ns
        engine.start()
        container.reload()
        assert container.status == "running"
        engine.restart()
        container.reload()
        assert container.status == "running"
        assert ask(url).headers["x-main-ns"] == started_ns


def test_a_power_cut_takes_the_containers_along_and_the_engine_comes_back(
    breakable_engine: PrivateEngine,
) -> None:
    ensure_static_image(breakable_engine)
    container = breakable_engine.client.containers.run(STATIC_IMAGE, detach=True)
    url = f"http://{address_of(container)}:8000/health"
    wait_for_answer(url)
    breakable_engine.kill(containers=True)
    assert leftovers.wait_until(lambda: not answers(url), timeout_s=5)
    breakable_engine.start()
    container.reload()
    assert container.status == "exited"


def test_a_frozen_engine_does_not_answer_until_it_is_thawed(breakable_engine: PrivateEngine) -> None:
    breakable_engine.freeze()
    try:
        # The signal reaches each of its threads at its own next step.
        assert leftovers.wait_until(lambda: not breakable_engine.answers(), timeout_s=10)
    finally:
        breakable_engine.thaw()
    assert leftovers.wait_until(breakable_engine.answers, timeout_s=10)


def test_two_private_engines_do_not_see_each_others_containers(breakable_engine: PrivateEngine) -> None:
    ensure_static_image(breakable_engine)
    container = breakable_engine.client.containers.run(STATIC_IMAGE, detach=True)
    with PrivateEngine() as other:
        assert other.bridge != breakable_engine.bridge
        assert other.client.containers.list(all=True) == []
    container.reload()
    assert container.status == "running"
    wait_for_answer(f"http://{address_of(container)}:8000/health")


def test_an_engine_dies_with_the_process_that_started_it_and_the_next_run_sweeps_it_up() -> None:
    name = f"orphan{os.getpid()}"
    script = (
        "import sys, time\nfrom tests.rig.engine import PrivateEngine\n"
        "PrivateEngine(sys.argv[1]).start()\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, name], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.send_signal(signal.SIGKILL)
    folder = str(RUN_ROOT / name)
    assert leftovers.wait_until(lambda: not leftovers.processes_naming(folder), timeout_s=20)
    assert name in remove_abandoned_engines()
    assert not (RUN_ROOT / name).exists()


def test_an_engine_that_cannot_start_says_so_with_the_end_of_its_log(tmp_path: Path) -> None:
    engine = PrivateEngine(data_root=tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/docker").write_text("a file where dockerd wants a folder")
    with pytest.raises(EngineFailed, match=r"(?s)dockerd ended with 1; its log ends:.*points to a file"):
        engine.start()
    engine.stop()
    assert traces_of(engine) == {}
