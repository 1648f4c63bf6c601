"""Removes what a private engine leaves on the host: processes, mounts, bridges, firewall rules, cgroups."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BRIDGE_IN_NETWORK_STORE = re.compile(rb'"BridgeName":"([^"]{1,15})"')
_IPTABLES_TABLES = ("filter", "nat", "raw")
_UNMOUNT_DETACHED = "-l"


def run_quietly(*command: str) -> str:
    """Runs a host command and returns its output, empty when it fails: clean-up goes on regardless."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return finished.stdout if finished.returncode == 0 else ""


def wait_until(condition: Callable[[], object], *, timeout_s: float, every_s: float = 0.01) -> bool:
    """Asks `condition` again until it holds or `timeout_s` have passed; returns whether it held."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if condition():
            return True
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(every_s)


def command_line(pid: int) -> str:
    """The command line of a process, arguments joined by spaces; empty when it is gone or a zombie."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def processes_naming(text: str) -> list[int]:
    """Pids of the processes, this one excepted, whose command line contains `text`."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208
    return [pid for pid in pids if pid != os.getpid() and text in command_line(pid)]


def children_of(parents: set[int]) -> list[int]:
    """Pids of the processes whose parent is in `parents`."""
    children = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
        except OSError:
            continue
        parent = int(stat.rpartition(")")[2].split()[1])
        if parent in parents:
            children.append(int(entry))
    return children


def send_signal(pid: int, number: int) -> None:
    """Sends a signal; a process that is gone already is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached every thread of a process: until then one may still answer."""
    states = [
        task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


def kill_containers(run_dir: Path) -> None:
    """SIGKILLs every container of the engine whose run folder this is, and the shims that hold them.

    Container processes first: they are the children of a shim, and init of their pid namespace,
    so each takes all processes of its container along.
    """
    address = f"-address {run_dir}/"
    shims = set(processes_naming(address))
    for pid in children_of(shims):
        send_signal(pid, signal.SIGKILL)
    for pid in shims:
        send_signal(pid, signal.SIGKILL)
    wait_until(lambda: not processes_naming(address), timeout_s=10)
    for socket_note in run_dir.glob("containerd/io.containerd.runtime.v2.task/*/*/address"):
        Path(socket_note.read_text().removeprefix("unix://")).unlink(missing_ok=True)


def unmount_below(*folders: Path) -> None:
    """Unmounts everything mounted in or below the folders, the deepest first."""
    prefixes = tuple(str(folder) for folder in folders)
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if any(point == prefix or point.startswith(prefix + "/") for prefix in prefixes):
            points.append(point)
    for point in reversed(points):
        run_quietly("umount", _UNMOUNT_DETACHED, point)


def bridges_of(data_root: Path, *, pool_prefix: str, own_bridge: str) -> set[str]:
    """Bridges that belong to an engine: its own, those in its network store, those in its address pool."""
    bridges = {own_bridge}
    store = data_root / "network/files/local-kv.db"
    if store.exists():
        # The store is a key-value file of JSON documents; it also tells of networks whose engine died.
        bridges.update(name.decode() for name in _BRIDGE_IN_NETWORK_STORE.findall(store.read_bytes()))
    bridges.discard("docker0")
    addresses = json.loads(run_quietly("ip", "-json", "-4", "addr", "show", "type", "bridge") or "[]")
    for link in addresses:
        if any(info.get("local", "").startswith(pool_prefix) for info in link.get("addr_info", [])):
            bridges.add(link["ifname"])
    return bridges


def remove_bridges(bridges: set[str], *, pool_prefix: str) -> None:
    """Deletes the bridges and every firewall rule that names one of them or the engine's addresses."""
    for table in _IPTABLES_TABLES:
        for rule in run_quietly("iptables", "-w", "5", "-t", table, "-S").splitlines():
            words = shlex.split(rule)
            names_ours = any(word in bridges or word.startswith(pool_prefix) for word in words)
            if words[:1] == ["-A"] and names_ours:
                run_quietly("iptables", "-w", "5", "-t", table, "-D", *words[1:])
    for bridge in bridges:
        run_quietly("ip", "link", "delete", bridge, "type", "bridge")


def remove_cgroups(parent: str) -> None:
    """Removes the engine's cgroup and all below it, in every hierarchy."""
    for top in {*Path("/sys/fs/cgroup").glob(f"*/{parent}"), *Path("/sys/fs/cgroup").glob(parent)}:
        for folder, _, _ in os.walk(top, topdown=False):
            wait_until(functools.partial(_removed, Path(folder)), timeout_s=1)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_tree(folder: Path) -> None:
    """Deletes a folder and all in it; what a dying process still writes is deleted at the next try."""

    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_until(gone, timeout_s=5, every_s=0.05)
