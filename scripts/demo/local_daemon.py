"""A gpud of the demo's own: started in the background, found again, and stopped."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

START_TIMEOUT_S = 30.0
PRICE_MICROS = 2_500_000

CONFIG = """\
# Written by scripts/quickstart; `gpud serve --config {path}` runs the same daemon.
[server]
listen = "{listen}"

[paths]
data_dir = "{data}"
run_dir = "{run}"

[docker]
host = "{docker_host}"
network = "{network}"

[scaling]
settle_s = 0

[prices]
currency = "USD"
gpu_hour_micros = {price}

[gpus]
source = "auto"    # NVML where its library loads; else the four below, which are simulated
"""

STATIC_GPU = """
[[gpus.static]]
uuid = "GPU-simulated-{index}"
name = "Simulated GPU"
memory_mib = 24576
"""


class LocalDaemon:
    """Finds or starts the daemon, and speaks to it.

    Args:
        root: The repository.
        listen: Wished address; a free port is taken when it is not to be had.
    """

    def __init__(self, root: Path, listen: str) -> None:
        self._root = root
        self._home = root / "var" / "quickstart"
        name = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        # A Unix socket's path is short, and a clone's may not be.
        run_root = Path("/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))  # noqa: S108
        self.run_dir = run_root / f"gpud-quickstart-{name}"
        self._network = f"gpud-quickstart-{name}"
        self._listen = listen
        self.config = self._home / "gpud.toml"
        self._log = self._home / "gpud.log"
        self._pid = self._home / "gpud.pid"
        self.url = ""
        self.key = ""

    async def ensure(self) -> None:
        """Have a daemon that answers, with a key to call it."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not await self._answers():
            self._start()
            await self._await_answer()
        self.url = "http://" + (self.run_dir / "address").read_text().strip()
        self.key = await self._a_key()
        source = (await self.get("/v1/system"))["gpu_source"]
        if source == "static":
            print("No NVML on this machine: four simulated GPUs are declared. Leases, placement, pinning")
            print("and metering are real; the model computes on the CPU.")

    async def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        return await self._ask("GET", path, None)

    async def put(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        return await self._ask("PUT", path, body)

    @property
    def stop_command(self) -> str:
        return f"kill {self._pid.read_text().strip()}"

    async def stop_and_clean(self) -> None:
        """Delete the endpoint with its workers, then end the daemon."""
        try:
            await self._ask("DELETE", "/v1/endpoints/embeddings", None)
            while (await self.get("/v1/workers"))["items"]:  # noqa: ASYNC110 - seen through the API only
                await asyncio.sleep(0.1)
        finally:
            pid = int(self._pid.read_text())
            os.kill(pid, signal.SIGTERM)
            while self._runs(pid):  # noqa: ASYNC110 - it may be the process of an earlier run
                await asyncio.sleep(0.05)
            self._pid.unlink()
            docker = ["docker", "--host", _docker_host(), "network", "rm", self._network]
            removing = await asyncio.create_subprocess_exec(
                *docker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            await removing.wait()

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:  # noqa: ANN401 - JSON
        connector = aiohttp.UnixConnector(path=str(self.run_dir / "api.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, "http://gpud" + path, json=body) as answer,
        ):
            text = await answer.text()
            if answer.status >= 400:
                raise SystemExit(f"error: {method} {path} answered {answer.status}: {text}")
            return json.loads(text) if text else None

    async def _answers(self) -> bool:
        try:
            await self.get("/livez")
        except (aiohttp.ClientError, OSError):
            return False
        return True

    async def _is_ready(self) -> bool:
        """Whether it has asked the engine what runs: the first request then measures a start alone."""
        return bool((await self.get("/v1/system"))["ready"])

    def _start(self) -> None:
        self._write_config()
        print(f"Starting gpud (log: {self._log})")
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gpud", "serve", "--config", str(self.config)],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid.write_text(f"{process.pid}\n")
        self._process = process

    async def _await_answer(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not await self._answers() or not await self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                tail = self._log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"error: gpud did not start; the end of its log ({self._log}):\n{tail}")
            await asyncio.sleep(0.05)

    def _write_config(self) -> None:
        values = {
            "path": self.config,
            "listen": self._listen if _is_free(self._listen) else "127.0.0.1:0",
            "data": self._home / "data",
            "run": self.run_dir,
            "docker_host": _docker_host(),
            "network": self._network,
            "price": PRICE_MICROS,
        }
        static = "".join(STATIC_GPU.format(index=index) for index in range(4))
        self.config.write_text(CONFIG.format(**values) + static, encoding="utf-8")

    async def _a_key(self) -> str:
        """The key of the run before, if it still opens, else a new one."""
        kept = self._home / "key"
        if kept.exists() and (token := kept.read_text().strip()):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.url}/openai/v1/models", headers=_bearer(token)) as answer,
            ):
                if answer.status == 200:
                    return token
        made = await self._ask("POST", "/v1/keys", {"label": "quickstart", "scopes": ["invoke:*", "read"]})
        token = str(made["token"])
        kept.touch(mode=0o600)
        kept.write_text(token + "\n")
        return token

    def _runs(self, pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _docker_host() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def _is_free(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True
