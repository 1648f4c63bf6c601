"""Reads what a container uses from the kernel's control groups, without asking the engine."""

from __future__ import annotations

from pathlib import Path

from gpud.ports.stats import ContainerUse

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class Cgroups:
    """Where the groups are.

    Args:
        proc: Mount of the process table.
        root: Mount of the control groups, of either version.
    """

    def __init__(self, proc: Path = _PROC, root: Path = _CGROUPS) -> None:
        self._proc = proc
        self._root = root

    def use_of(self, pid: int) -> ContainerUse | None:
        """What the group of a process uses; None where that cannot be read."""
        try:
            lines = (self._proc / str(pid) / "cgroup").read_text(encoding="ascii").splitlines()
            paths = {
                name: path
                for line in lines
                for _, names, path in [line.split(":", 2)]
                for name in names.split(",")
            }
            if "memory" in paths:
                return self._version_1(paths)
            return self._version_2(self._root / paths[""].lstrip("/"))
        except (OSError, ValueError, KeyError):
            return None

    def _version_2(self, group: Path) -> ContainerUse:
        facts = _facts(group / "cpu.stat")
        memory = int((group / "memory.current").read_text(encoding="ascii"))
        return ContainerUse(
            cpu_s=facts["usage_usec"] / 1e6,
            memory_bytes=max(memory - _facts(group / "memory.stat").get("inactive_file", 0), 0),
            pids=_pids(group),
        )

    def _version_1(self, paths: dict[str, str]) -> ContainerUse:
        memory = self._root / "memory" / paths["memory"].lstrip("/")
        cpu = self._root / "cpuacct" / paths["cpuacct"].lstrip("/")
        used = int((memory / "memory.usage_in_bytes").read_text(encoding="ascii"))
        idle = _facts(memory / "memory.stat").get("total_inactive_file", 0)
        return ContainerUse(
            cpu_s=int((cpu / "cpuacct.usage").read_text(encoding="ascii")) / 1e9,
            memory_bytes=max(used - idle, 0),
            pids=_pids(memory),
        )


def _facts(file: Path) -> dict[str, int]:
    pairs = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _pids(group: Path) -> frozenset[int]:
    return frozenset(map(int, (group / "cgroup.procs").read_text(encoding="ascii").split()))
