"""Freezing and thawing on a real engine and by the real kernel, whichever way it is done."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.docker_freezer import FreezerFile, freezer_file
from gpud.errors import LaunchFailed
from gpud.ports.containers import ContainerStatus
from tests.contract.test_docker_runtime import (  # noqa: F401 - fixtures
    WORKER,
    image,
    inspected,
    launch_of,
    runtime,
    runtime_on,
)

if TYPE_CHECKING:
    from gpud.adapters.docker_runtime import DockerRuntime
    from gpud.core.endpoint import PinnedImage
    from tests.rig.engine import Engine

pytestmark = pytest.mark.engine


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _gets_cpu(pid: int, *, within_s: float) -> bool:
    before, deadline_s = _cpu_ticks(pid), time.monotonic() + within_s
    while _cpu_ticks(pid) == before:
        if time.monotonic() >= deadline_s:
            return False
    return True


async def _cpu_s(runtime: DockerRuntime) -> float:  # noqa: F811
    found = await runtime.activity(WORKER)
    assert found is not None
    assert found.cpu_s is not None
    return found.cpu_s


async def _runs(runtime: DockerRuntime, *, within_s: float) -> bool:  # noqa: F811
    """Whether the container, whose init does nothing, uses any CPU."""
    before_s, deadline_s = await _cpu_s(runtime), time.monotonic() + within_s
    while await _cpu_s(runtime) == before_s:
        if time.monotonic() >= deadline_s:
            return False
        await asyncio.sleep(0.02)
    return True


@pytest.mark.parametrize("local", [True, False], ids=["kernel", "engine"])
async def test_a_container_is_frozen_thawed_and_ended_while_frozen(
    runtime: DockerRuntime,  # noqa: F811
    engine: Engine,
    image: PinnedImage,  # noqa: F811
    local: bool,
) -> None:
    runtime.freezer._local = local
    await runtime.start_worker(launch_of(image, env=(("LOG_FLOOD_LINES_PER_S", "5000"),)))
    for _ in range(2):
        await runtime.freezer.freeze(WORKER)
        assert not await _runs(runtime, within_s=0.2)
        assert inspected(engine)["State"]["Paused"] is not local
        seen = await runtime.inspect_worker(WORKER)
        assert seen is not None
        assert (seen.status, seen.paused) == (ContainerStatus.RUNNING, not local)
        await runtime.freezer.thaw(WORKER)
        await runtime.freezer.thaw(WORKER)
        assert await _runs(runtime, within_s=20)

    await runtime.freezer.freeze(WORKER)
    async with runtime_on(engine) as another_daemon:
        await another_daemon.freezer.thaw(WORKER)
        assert await _runs(runtime, within_s=20), "whoever froze it"
        await another_daemon.freezer.freeze(WORKER)
        ended = await another_daemon.stop_worker(WORKER, grace_s=10)
        assert ended is not None
        assert (ended.status, ended.exit_code) == (ContainerStatus.EXITED, 0), "it heard the signal"
        with pytest.raises(LaunchFailed):
            await another_daemon.freezer.freeze(WORKER)
        with pytest.raises(LaunchFailed):
            await another_daemon.freezer.thaw(WORKER)


async def test_a_frozen_container_is_removed(
    runtime: DockerRuntime,  # noqa: F811
    image: PinnedImage,  # noqa: F811
) -> None:
    await runtime.start_worker(launch_of(image))
    await runtime.freezer.freeze(WORKER)
    await runtime.remove_worker(WORKER)
    assert await runtime.inspect_worker(WORKER) is None


@pytest.mark.skipif(
    not any(Path(p, "cgroup.procs").exists() for p in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")),
    reason="needs a file system of control groups of version 2",
)
def test_the_second_version_of_control_groups_freezes_too() -> None:
    root = next(p for p in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if p.is_dir())
    group = root / f"gpud-freezer-{os.getpid()}"
    group.mkdir()
    spinner = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        (group / "cgroup.procs").write_text(str(spinner.pid))
        found = FreezerFile(switch=group / "cgroup.freeze")
        found.turn(frozen=True)
        deadline_s = time.monotonic() + 10
        while not found.is_frozen():
            assert time.monotonic() < deadline_s
        assert found.is_turned()
        assert not _gets_cpu(spinner.pid, within_s=0.2)
        found.turn(frozen=False)
        assert not found.is_turned()
        assert _gets_cpu(spinner.pid, within_s=20)
    finally:
        spinner.kill()
        spinner.wait()
        deadline_s = time.monotonic() + 10
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline_s:
            continue
        group.rmdir()


def _proc_of(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "proc"


def _made(tmp_path: Path, switch: str) -> Path:
    path = tmp_path / "cgroup" / switch
    path.parent.mkdir(parents=True)
    path.write_text("0")
    return path


@pytest.mark.parametrize(
    ("lines", "switch"),
    [
        (("8:cpu:/", "7:freezer:/docker/abc"), "freezer/docker/abc/freezer.state"),
        (("7:freezer:/docker/abc/inner/deeper", "0::/docker/abc"), "freezer/docker/abc/freezer.state"),
        (("0::/system.slice/docker-abc.scope",), "system.slice/docker-abc.scope/cgroup.freeze"),
        (("0::/docker/abc/init",), "docker/abc/cgroup.freeze"),
    ],
)
def test_the_switch_is_the_containers_own_group(tmp_path: Path, lines: tuple[str, ...], switch: str) -> None:
    proc, path = _proc_of(tmp_path, *lines), _made(tmp_path, switch)
    assert freezer_file(7, "abc", proc=proc, cgroups=tmp_path / "cgroup") == FreezerFile(switch=path)
    assert freezer_file(7, "other", proc=proc, cgroups=tmp_path / "cgroup") is None, "of another container"
    assert freezer_file(8, "abc", proc=proc, cgroups=tmp_path / "cgroup") is None, "it ended"
    path.unlink()
    assert freezer_file(7, "abc", proc=proc, cgroups=tmp_path / "cgroup") is None, "it cannot be reached"
