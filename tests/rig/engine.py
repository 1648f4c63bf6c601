"""Runs a private Docker Engine for the tests: one they may fill, freeze, kill, restart and throw away.

It has its own data root, run folder, containerd, socket, bridge and address pool, so it works beside
a system engine. A stand-in NVIDIA hook in its PATH makes it accept GPU device requests.
By hand: `python -m tests.rig.engine up --name dev` prints the socket, `... down --name dev` removes it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import docker
from docker.errors import APIError, NotFound

from tests.rig import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker import DockerClient

NVIDIA_HOOK_DIR = Path(__file__).parent / "nvidia"
_ONE_AT_A_TIME_DIR = Path(__file__).parent / "one_at_a_time"
RUN_ROOT = Path("/run/gpud-rig")

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
_PREDEFINED_NETWORKS = ("bridge", "host", "none")
_FIRST_OCTET = 10
_SUBNET_OCTETS = range(192, 250)
_LOG_TAIL_LINES = 20

_CONTAINERD_CONFIG = """\
version = 2
root = "{data_root}/containerd"
state = "{run_dir}/containerd"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{run_dir}/containerd.sock"
"""


class EngineFailed(Exception):
    """The engine could not be started, or did not do in time what it was told."""


def engine_obstacle() -> str | None:
    """Why no private engine can run on this host, or None when one can."""
    if os.geteuid() != 0:
        return "a private Docker Engine needs root"
    missing = [name for name in ("dockerd", "containerd", "runc", "ip", "iptables") if not shutil.which(name)]
    return f"not installed: {', '.join(missing)} (Debian: apt-get install docker.io)" if missing else None


class Engine:
    """A Docker Engine that somebody runs, reached by its Unix socket."""

    def __init__(self, socket_url: str) -> None:
        self.socket_url = socket_url

    @property
    def socket_path(self) -> Path:
        """The path of the engine's socket."""
        return Path(self.socket_url.removeprefix("unix://"))

    @functools.cached_property
    def client(self) -> DockerClient:
        """A client of the engine, made at the first use."""
        return docker.DockerClient(base_url=self.socket_url, timeout=60)

    def env(self) -> dict[str, str]:
        """What a process must have in its environment to use this engine."""
        return {"DOCKER_HOST": self.socket_url}

    def answers(self) -> bool:
        """Whether the engine answers a ping within a second."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

    def remove_everything(self, *, label: str | None = None) -> None:
        """Removes all containers, volumes and networks; with `label`, only those that carry it."""
        filters = {"label": label} if label else {}
        for container in self.client.containers.list(all=True, filters=filters, ignore_removed=True):
            with contextlib.suppress(NotFound, APIError):
                container.remove(force=True, v=True)
        for network in self.client.networks.list(filters=filters):
            if network.name not in _PREDEFINED_NETWORKS:
                with contextlib.suppress(NotFound, APIError):
                    network.remove()
        for volume in self.client.volumes.list(filters=filters):
            with contextlib.suppress(NotFound, APIError):
                volume.remove(force=True)


class PrivateEngine(Engine):
    """A Docker Engine of the tests' own, with everything it keeps under two folders.

    Args:
        name: Names the run folder and the cgroup; distinct for each engine that lives at a time.
        run_dir: Sockets, pid files, logs; `/run/gpud-rig/<name>` when None.
        data_root: Images and containers; a new temporary folder when None.
        bridge: Name of the engine's default bridge (at most 15 characters); chosen when None.
        live_restore: Whether containers outlive a stop of the daemon.
        outlive: Whether the engine outlives the process that starts it.
    """

    def __init__(
        self,
        name: str = "",
        *,
        run_dir: Path | None = None,
        data_root: Path | None = None,
        bridge: str | None = None,
        live_restore: bool = False,
        outlive: bool = False,
    ) -> None:
        self.name = name or f"t{os.getpid()}-{os.urandom(3).hex()}"
        self.run_dir = run_dir or RUN_ROOT / self.name
        self.data_root = data_root or Path(tempfile.gettempdir()) / f"gpud-rig-{self.name}"
        self.live_restore = live_restore
        self.bridge = bridge or ""
        self.runtimes: dict[str, Path] = {}
        """OCI runtimes by name that the engine is told of at its start, besides its own."""
        self._outlive = outlive
        self._pool_prefix = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        super().__init__(f"unix://{self.run_dir}/docker.sock")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, live_restore: bool | None = None) -> Self:
        """Starts containerd and dockerd where they do not run, and waits until the engine answers.

        Raises:
            EngineFailed: It cannot run here or did not answer in time; the message has the log's end.
        """
        if obstacle := engine_obstacle():
            raise EngineFailed(obstacle)
        if live_restore is not None:
            self.live_restore = live_restore
        if not self._pool_prefix:
            self._settle()
        if not self._pid("containerd"):
            self._start_containerd()
        if not self._pid("dockerd"):
            with _only_one_starts():
                self._start_dockerd()
        return self

    def halt(self) -> None:
        """Stops dockerd in good order, as a service manager would; without live restore containers stop."""
        self._end("dockerd", signal.SIGTERM)

    def restart(self) -> None:
        """Stops dockerd in good order and starts it again on the same data."""
        self.halt()
        self.start()

    def kill(self, *, containers: bool = False) -> None:
        """SIGKILLs dockerd. Containers run on, as they do on a real box, unless `containers` is set.

        With `containers` containerd, the shims and the containers die too, as in a power cut of the engine.
        """
        self._end("dockerd", signal.SIGKILL)
        if containers:
            self._end("containerd", signal.SIGKILL)
            leftovers.kill_containers(self.run_dir)

    def freeze(self) -> None:
        """Stops dockerd from being scheduled: it accepts connections and answers nothing."""
        leftovers.send_signal(pid := self._pid("dockerd"), signal.SIGSTOP)
        if not leftovers.wait_until(lambda: leftovers.is_stopped(pid), timeout_s=10.0, every_s=0.01):
            raise EngineFailed("dockerd goes on although it was stopped")

    def thaw(self) -> None:
        """Lets a frozen dockerd run again."""
        leftovers.send_signal(self._pid("dockerd"), signal.SIGCONT)

    def stop(self, *, keep_data: bool = False) -> None:
        """Ends the engine and removes all it made: containers, mounts, bridges, rules, cgroups, folders."""
        if pid := self._pid("dockerd"):
            leftovers.send_signal(pid, signal.SIGCONT)
            if self.answers():
                with contextlib.suppress(Exception):  # What the engine does not remove is removed below.
                    self.remove_everything()
        if "client" in self.__dict__:
            self.client.close()
            del self.__dict__["client"]
        self._end("dockerd", signal.SIGTERM)
        self._end("containerd", signal.SIGTERM)
        self._demolish(keep_data=keep_data)

    def log_tail(self, program: str = "dockerd") -> str:
        """The last lines that a program of the engine logged."""
        log = self.run_dir / f"{program}.log"
        return (
            "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]) if log.exists() else ""
        )

    def _settle(self) -> None:
        """Makes the folders and claims a subnet, or takes both over from an earlier start."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.data_root.mkdir(parents=True, exist_ok=True)
        note = self.run_dir / "engine.json"
        if note.exists():
            kept = json.loads(note.read_text())
            self.bridge, self._pool_prefix = kept["bridge"], kept["pool_prefix"]
            self.data_root = Path(kept["data_root"])
            return
        self.bridge, self._pool_prefix = _claim_bridge(self.bridge)
        owner = 0 if self._outlive else os.getpid()
        kept = {"name": self.name, "owner": owner, "data_root": str(self.data_root)}
        note.write_text(json.dumps(kept | {"bridge": self.bridge, "pool_prefix": self._pool_prefix}))

    def _start_containerd(self) -> None:
        config = self.run_dir / "containerd.toml"
        config.write_text(_CONTAINERD_CONFIG.format(data_root=self.data_root, run_dir=self.run_dir))
        socket_path = self.run_dir / "containerd.sock"
        socket_path.unlink(missing_ok=True)
        self._spawn("containerd", "--config", str(config))
        self._wait_for("containerd", socket_path.exists)

    def _start_dockerd(self) -> None:
        config = self.run_dir / "daemon.json"
        runtimes = {name: {"path": str(path)} for name, path in self.runtimes.items()}
        config.write_text(json.dumps({"live-restore": self.live_restore, "runtimes": runtimes}))
        self.socket_path.unlink(missing_ok=True)
        (self.run_dir / "docker.pid").unlink(missing_ok=True)  # A killed dockerd leaves its own behind.
        self._spawn(
            "dockerd",
            f"--config-file={config}",
            f"--host={self.socket_url}",
            f"--data-root={self.data_root}/docker",
            f"--exec-root={self.run_dir}/exec",
            f"--pidfile={self.run_dir}/docker.pid",
            f"--containerd={self.run_dir}/containerd.sock",
            f"--bridge={self.bridge}",
            f"--default-address-pool=base={self._pool_prefix}128.0/17,size=24",
            f"--cgroup-parent=/{self._cgroup}",
            "--group=root",
            "--storage-driver=overlay2",
        )
        self._wait_for("dockerd", self.answers)

    @property
    def _cgroup(self) -> str:
        return f"gpud-rig-{self.name}"

    def _spawn(self, program: str, *arguments: str) -> None:
        # Without `outlive` the kernel ends the engine when the tests die, however they die.
        leash = () if self._outlive else ("setpriv", "--pdeathsig", "TERM")
        path = f"{NVIDIA_HOOK_DIR}:{_ONE_AT_A_TIME_DIR}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        with (self.run_dir / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(
                [*leash, program, *arguments],
                env=os.environ | {"PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[program] = process
        (self.run_dir / f"{program}.pid").write_text(str(process.pid))

    def _wait_for(self, program: str, condition: Callable[[], bool]) -> None:
        process = self._processes[program]
        came = leftovers.wait_until(
            lambda: condition() or process.poll() is not None, timeout_s=_START_TIMEOUT_S, every_s=0.02
        )
        ended = process.poll()
        if ended is not None:
            raise EngineFailed(f"{program} ended with {ended}; its log ends:\n{self.log_tail(program)}")
        if not came:
            limit = f"{_START_TIMEOUT_S:g} s"
            raise EngineFailed(
                f"{program} did not answer in {limit}; its log ends:\n{self.log_tail(program)}"
            )

    def _pid(self, program: str) -> int:
        """The pid of a running program of this engine, started here or by another process, or 0."""
        if process := self._processes.get(program):
            return 0 if process.poll() is not None else process.pid
        try:
            pid = int((self.run_dir / f"{program}.pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if str(self.run_dir) in leftovers.command_line(pid) else 0

    def _end(self, program: str, number: int) -> None:
        if pid := self._pid(program):
            leftovers.send_signal(pid, number)
            if not leftovers.wait_until(lambda: not self._pid(program), timeout_s=_STOP_TIMEOUT_S):
                leftovers.send_signal(pid, signal.SIGKILL)
                leftovers.wait_until(lambda: not self._pid(program), timeout_s=_STOP_TIMEOUT_S)
        self._processes.pop(program, None)

    def _demolish(self, *, keep_data: bool) -> None:
        leftovers.kill_containers(self.run_dir)
        leftovers.unmount_below(self.run_dir, self.data_root)
        if self._pool_prefix:
            docker_root = self.data_root / "docker"
            bridges = leftovers.bridges_of(docker_root, pool_prefix=self._pool_prefix, own_bridge=self.bridge)
            leftovers.remove_bridges(bridges, pool_prefix=self._pool_prefix)
            self._pool_prefix = ""
        leftovers.remove_cgroups(self._cgroup)
        leftovers.remove_tree(self.run_dir)
        if not keep_data:
            leftovers.remove_tree(self.data_root)


@contextlib.contextmanager
def _only_one_starts() -> Iterator[None]:
    """A starting dockerd makes the host's `DOCKER` chains anew; two at once take them from each other."""
    RUN_ROOT.mkdir(parents=True, exist_ok=True)
    with (RUN_ROOT / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _claim_bridge(name: str) -> tuple[str, str]:
    """Creates a bridge on a subnet no route of this host touches; returns its name and the address prefix.

    Creating the link is the claim: the kernel lets one process have a name.
    """
    routes = json.loads(leftovers.run_quietly("ip", "-json", "-4", "route", "show", "table", "main") or "[]")
    taken = [
        ipaddress.ip_network(route["dst"], strict=False) for route in routes if route.get("dst") != "default"
    ]
    for octet in _SUBNET_OCTETS:
        wanted = ipaddress.ip_network(f"{_FIRST_OCTET}.{octet}.0.0/16")
        if any(isinstance(other, ipaddress.IPv4Network) and wanted.overlaps(other) for other in taken):
            continue
        bridge = name or f"gpudrig{octet}"
        made = subprocess.run(
            ["ip", "link", "add", "name", bridge, "type", "bridge"],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            if name:
                message = f"cannot create the bridge {name}: {made.stderr.strip()}"
                raise EngineFailed(message)
            continue
        prefix = f"{_FIRST_OCTET}.{octet}."
        leftovers.run_quietly("ip", "addr", "add", f"{prefix}0.1/24", "dev", bridge)
        leftovers.run_quietly("ip", "link", "set", bridge, "up")
        return bridge, prefix
    message = "no free 10.x.0.0/16 subnet for a private engine on this host"
    raise EngineFailed(message)


def remove_abandoned_engines(run_root: Path = RUN_ROOT) -> list[str]:
    """Removes the engines of test runs that died without doing so; returns their names."""
    removed = []
    for note in run_root.glob("*/engine.json"):
        kept = json.loads(note.read_text())
        owner = kept["owner"]
        if owner and not leftovers.command_line(owner):
            engine = PrivateEngine(kept["name"], run_dir=note.parent, data_root=Path(kept["data_root"]))
            engine.bridge, engine._pool_prefix = kept["bridge"], kept["pool_prefix"]
            engine.stop()
            removed.append(engine.name)
    return removed


def main() -> int:
    """Brings a named private engine up or down from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.engine", description=main.__doc__)
    parser.add_argument("action", choices=["up", "down", "restart"])
    parser.add_argument("--name", default="dev")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--bridge")
    parser.add_argument(
        "--keep-data", action="store_true", help="with down: keep images and containers on disk"
    )
    chosen = parser.parse_args()
    engine = PrivateEngine(
        chosen.name, run_dir=chosen.run_dir, data_root=chosen.data_root, bridge=chosen.bridge, outlive=True
    )
    try:
        match chosen.action:
            case "up":
                engine.start()
            case "restart":
                engine.start()
                engine.restart()
            case _:
                engine._settle()  # Takes over what an earlier `up` claimed.
                engine.stop(keep_data=chosen.keep_data)
    except EngineFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{engine.socket_url}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
