"""What an application sees through the shim is what it sees without it: on a real engine, side by side."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from docker.models.containers import Container

    from tests.rig.fixtures import ContainerStarter

pytestmark = pytest.mark.e2e

_LOOK = """
import json, os, signal
print(json.dumps({
    "parent": os.getppid() if os.getpid() != 1 else 0,
    "argv": open("/proc/self/cmdline").read().split(chr(0))[2:],
    "env": {k: v for k, v in os.environ.items() if k != "HOSTNAME"},
    "files": len(os.listdir("/proc/self/fd")),
    "ignored": open("/proc/self/status").read().split("SigIgn:")[1].split()[0],
    "blocked": open("/proc/self/status").read().split("SigBlk:")[1].split()[0],
    "cwd": os.getcwd(),
    "uid": os.getuid(),
}), flush=True)
"""
_ORPHANS = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.1)
        os._exit(0)
    os.wait()
def zombies():
    stats = [open(f"/proc/{p}/stat").read() for p in os.listdir("/proc") if p.isdigit()]
    states = [stat.rsplit(")", 1)[1].split()[0] for stat in stats]
    return states.count("Z"), len(states)
deadline = time.monotonic() + 20
while zombies()[1] > EXPECTED and time.monotonic() < deadline:
    time.sleep(0.05)
print(zombies()[0], flush=True)
"""
_SLEEP = "import time; print('up', flush=True); time.sleep(600)"
_HANDLER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
print("up", flush=True)
while True: time.sleep(0.05)
"""


class Held:
    """Starts a command: plain, behind the shim below the engine's init, or with the shim as init."""

    def __init__(self, shim: Path, folder: Path, image: str, start: ContainerStarter) -> None:
        self._shim = shim
        self._folder = folder
        self._image = image
        self._start = start

    def run(
        self, way: str, *command: str, env: bytes = b"", trigger: bool = True, **options: Any
    ) -> Container:
        if way == "plain":
            return self._start(self._image, command=list(command), init=True, **options)
        box = self._folder / os.urandom(4).hex()
        box.mkdir()
        os.mkfifo(box / "go")
        (box / "go").chmod(0o666)
        (box / "env").write_bytes(env)
        container = self._start(
            self._image,
            entrypoint=["/.gpud/hold", "/.gpud/standby"],
            command=list(command),
            init=way == "shim",
            volumes={
                str(self._shim): {"bind": "/.gpud/hold", "mode": "ro"},
                str(box): {"bind": "/.gpud/standby", "mode": "ro"},
            },
            **options,
        )
        opened = until(lambda: _opened(box / "go"), what="the shim waits")
        assert opened is not None
        if trigger:
            os.write(opened, b"\n")
        os.close(opened)
        return container


def _opened(trigger: Path) -> int | None:
    try:
        return os.open(trigger, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.fixture
def held(shim: Path, tmp_path: Path, base_image: str, start_container: ContainerStarter) -> Held:
    return Held(shim, tmp_path, base_image, start_container)


def _exit_code(container: Container) -> int:
    return int(container.wait(timeout=30)["StatusCode"])


def _said(container: Container) -> str:
    return str(container.logs(stdout=True, stderr=False).decode())


def _is_up(container: Container) -> None:
    until(lambda: "up" in _said(container), what="the command runs")


WAYS = ("shim", "init")


def test_the_application_sees_no_trace_of_the_shim(held: Held) -> None:
    looks = {}
    for way in ("plain", *WAYS):
        container = held.run(way, "python3", "-c", _LOOK, "an argument", "", user="1234", working_dir="/opt")
        assert _exit_code(container) == 0, container.logs()
        looks[way] = json.loads(_said(container))
    assert looks["shim"] == looks["plain"]
    assert looks["init"] == looks["plain"], "as process 1 it is what the engine's init would be"


@pytest.mark.parametrize("way", WAYS)
def test_the_environment_of_the_trigger_comes_on_top(held: Held, way: str) -> None:
    script = "import os; print(os.environ['GIVEN'], os.environ['CHANGED'], os.environ['KEPT'], flush=True)"
    env = b"GIVEN=a b\0CHANGED=\xc3\xa4=\n\0"
    before = {"CHANGED": "before", "KEPT": "kept", "PYTHONUTF8": "1"}
    container = held.run(way, "python3", "-c", script, env=env, environment=before)
    assert _exit_code(container) == 0, container.logs()
    assert _said(container) == "a b ä=\n kept\n"


@pytest.mark.parametrize("way", ["plain", *WAYS])
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.kill(os.getpid(), 11)", 139),
    ],
)
def test_the_exit_code_is_the_applications_own(held: Held, way: str, script: str, code: int) -> None:
    # As a child of the init it has no pid 1's immunity; the init reports 128 + N.
    assert _exit_code(held.run(way, "python3", "-c", script)) == code


@pytest.mark.parametrize("way", ["plain", *WAYS])
def test_signals_reach_the_application(held: Held, way: str) -> None:
    container = held.run(way, "python3", "-c", _HANDLER)
    _is_up(container)
    container.kill("SIGUSR1")
    until(lambda: "usr1" in _said(container), what="SIGUSR1 is handled")
    container.kill("SIGTERM")
    assert _exit_code(container) == 9
    unhandled = held.run(way, "python3", "-c", _SLEEP)
    _is_up(unhandled)
    unhandled.kill("SIGTERM")
    assert _exit_code(unhandled) == 143


@pytest.mark.parametrize("way", ["plain", *WAYS])
def test_orphans_are_reaped(held: Held, way: str) -> None:
    container = held.run(way, "python3", "-c", _ORPHANS.replace("EXPECTED", "2"))
    assert _exit_code(container) == 0, container.logs()
    assert _said(container) == "0\n"


@pytest.mark.parametrize("way", WAYS)
def test_a_parked_container_stops_at_once(held: Held, way: str) -> None:
    container = held.run(way, "python3", "-c", _SLEEP, trigger=False)
    container.stop(timeout=20)
    assert _exit_code(container) == 143


@pytest.mark.parametrize("way", ["plain", *WAYS])
@pytest.mark.parametrize(("command", "code"), [("/no/such/program", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_run_says_so_by_its_code(
    held: Held, way: str, command: str, code: int
) -> None:
    assert _exit_code(held.run(way, command)) == code
