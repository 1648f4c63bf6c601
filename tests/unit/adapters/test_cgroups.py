"""What containers use, from control groups of both versions laid out in a folder, and from the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.adapters.cgroups import Cgroups
from gpud.adapters.threads import Threads
from gpud.adapters.worker_uses import WorkerUses
from gpud.core.ids import WorkerId
from gpud.core.stalls import Activity
from gpud.ports.stats import ContainerUse

if TYPE_CHECKING:
    from pathlib import Path

    from gpud.ports.containers import ContainerRuntime

WORKER = WorkerId("wk_" + "a" * 16)
GONE = WorkerId("wk_" + "b" * 16)
PID = 4711


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


def _version_2(root: Path) -> None:
    group = "cgroup/system.slice/docker-abc.scope"
    _write(
        root,
        {
            f"proc/{PID}/cgroup": "0::/system.slice/docker-abc.scope\n",
            f"{group}/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
            f"{group}/memory.current": "9000\n",
            f"{group}/memory.stat": "anon 1\ninactive_file 2000\n",
            f"{group}/cgroup.procs": "4711\n4712\n",
        },
    )


def _version_1(root: Path) -> None:
    _write(
        root,
        {
            f"proc/{PID}/cgroup": "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=x:/\n",
            "cgroup/cpuacct/docker/abc/cpuacct.usage": "2500000000\n",
            "cgroup/memory/docker/abc/memory.usage_in_bytes": "9000\n",
            "cgroup/memory/docker/abc/memory.stat": "total_inactive_file 2000\n",
            "cgroup/memory/docker/abc/cgroup.procs": "4711\n4712\n",
        },
    )


@pytest.fixture(params=[_version_1, _version_2])
def groups(request: pytest.FixtureRequest, tmp_path: Path) -> Cgroups:
    request.param(tmp_path)
    return Cgroups(tmp_path / "proc", tmp_path / "cgroup")


def test_a_container_is_read_from_its_group(groups: Cgroups) -> None:
    assert groups.use_of(PID) == ContainerUse(cpu_s=2.5, memory_bytes=7000, pids=frozenset({4711, 4712}))


def test_a_process_that_is_gone_or_hidden_has_none(groups: Cgroups, tmp_path: Path) -> None:
    assert groups.use_of(1) is None
    _write(tmp_path, {"proc/5/cgroup": "0::/elsewhere\n", "proc/6/cgroup": "nonsense"})
    assert groups.use_of(5) is None
    assert groups.use_of(6) is None


class _Engine:
    """Knows one running container, and counts how often it is asked."""

    def __init__(self) -> None:
        self.looks = 0

    async def inspect_worker(self, worker_id: WorkerId) -> object:
        self.looks += 1
        return type("Seen", (), {"pid": PID})() if worker_id == WORKER else None

    async def activity(self, worker_id: WorkerId) -> Activity | None:
        return Activity(log_mark="", cpu_s=4.5, memory_bytes=123) if worker_id == WORKER else None


async def _twice(groups: Cgroups) -> tuple[_Engine, dict[WorkerId, ContainerUse]]:
    engine, threads = _Engine(), Threads(1)
    runtime: ContainerRuntime = engine  # type: ignore[assignment]
    reader = WorkerUses(runtime, threads, groups)
    await reader.uses([WORKER])
    found = await reader.uses([WORKER, GONE])
    await threads.close()
    return engine, dict(found)


async def test_the_engine_is_asked_for_a_process_once(groups: Cgroups) -> None:
    engine, found = await _twice(groups)
    assert found == {WORKER: ContainerUse(cpu_s=2.5, memory_bytes=7000, pids=frozenset({4711, 4712}))}
    assert engine.looks == 2  # once for each worker


async def test_where_groups_cannot_be_read_the_engine_tells(tmp_path: Path) -> None:
    _, found = await _twice(Cgroups(tmp_path, tmp_path))
    assert found == {WORKER: ContainerUse(cpu_s=4.5, memory_bytes=123)}
