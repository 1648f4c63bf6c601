"""Containers parked behind the shim and triggered by hand: what waking costs where nobody decides."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench_lib.bare_worker import bare_body, bare_name, runtime_of
from bench_lib.engine_socket import PROBE_S, answers

from gpud.adapters.docker_launch import ImageCommand
from gpud.adapters.tier_parked import shipped_shim
from gpud.core.endpoint import PinnedImage
from gpud.ports.containers import EntrypointHold
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from bench_lib.coldstart import App
    from bench_lib.engine_socket import EngineSocket

    from tests.e2e.daemon import DaemonProcess

_QUIET_S = 0.3
_REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def wake_bare(
    bare: EngineSocket, daemon: DaemonProcess, app: App, pin: str, count: int, *, port: int
) -> float:
    """Park containers, trigger them one right after the other; milliseconds until the last answered."""
    config = daemon.engine.client.api.inspect_image(app.image)["Config"]
    own = ImageCommand(entrypoint=tuple(config["Entrypoint"] or ()), cmd=tuple(config["Cmd"] or ()))
    with tempfile.TemporaryDirectory(prefix="gpud-bare-") as root, contextlib.ExitStack() as stack:
        Path(root).chmod(0o711)
        program = Path(shutil.copy(shipped_shim(), root))
        program.chmod(0o755)
        parked: dict[Path, str] = {}
        for _ in range(count):
            name = bare_name()
            folder = Path(root, name)
            folder.mkdir()
            os.mkfifo(folder / "go")
            (folder / "env").touch()
            hold = EntrypointHold(program=str(program), directory=str(folder))
            image = PinnedImage(reference=app.image, pin=pin)
            runtime = runtime_of(daemon)
            body = bare_body(
                name,
                image,
                network=daemon.network,
                port=port,
                env=app.env,
                runtime=runtime,
                hold=hold,
                own=own,
            )
            bare.create(name, body)
            stack.callback(bare.remove, name)
            bare.call("POST", f"/containers/{name}/start")
            seen = bare.call("GET", f"/containers/{name}/json")["NetworkSettings"]["Networks"]
            parked[folder] = seen[daemon.network]["IPAddress"]
        until(lambda: all(map(_is_held, parked)), what="all are held", within_s=30)
        time.sleep(_QUIET_S)
        return _triggered(parked, port) * 1000


def _triggered(parked: dict[Path, str], port: int) -> float:
    began_s = time.perf_counter()
    for folder in parked:
        with (folder / "go").open("wb", buffering=0) as trigger:
            trigger.write(b"\n")
    left = list(parked.values())
    while left:
        left = [address for address in left if not answers(address, port, _REQUEST)]
        if left:
            time.sleep(PROBE_S)
    return time.perf_counter() - began_s


def _is_held(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "go", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
