"""Runs the daemon as users do, as a process of its own, and asks it through its own doors.

`DaemonProcess` writes a gpud.toml into a folder of its own, starts `python -m gpud serve`, and offers
the API over the Unix socket, the endpoints over TCP, the command line, the log and the database.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound

from tests.e2e.forked import ForkedProcess
from tests.e2e.http_client import Reply, Stream, UnixConnection, exchange
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker.models.containers import Container

    from tests.rig.engine import Engine

ROOT = Path(__file__).parent.parent.parent
_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 20.0
_LOG_TAIL_LINES = 40
_PORTS = range(20_000, 30_000)  # Below what the system gives to outgoing connections.

Settings = dict[str, dict[str, Any]]


def static_gpus(count: int) -> Settings:
    """Settings that declare some GPUs by hand."""
    return {
        "gpus": {
            "source": "static",
            "static": [{"uuid": f"GPU-static-{index}", "name": "Declared GPU"} for index in range(count)],
        }
    }


def nvml_gpus() -> Settings:
    """Settings that take the GPUs from NVML."""
    return {"gpus": {"source": "nvml"}}


class DaemonProcess:
    """A daemon with its own folders, port, network and containers.

    Args:
        engine: Where its containers run.
        settings: Sections of gpud.toml, on top of what every test needs.
        env: On top of this process's environment.
        forked: Fork it from a process that has its modules already; with an `env` it is started as users do.
        data_dir: A folder of its own when None.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
        forked: bool = False,
    ) -> None:
        self.engine = engine
        self.folder = Path(tempfile.mkdtemp(prefix="gpud-e2e-"))
        self.data_dir = data_dir or self.folder / "data"
        self.run_dir = self.folder / "run"
        self.network = f"gpud-e2e-{os.urandom(4).hex()}"
        self.port = free_port()
        self.config = self.folder / "gpud.toml"
        self.settings: Settings = {
            "server": {"listen": f"127.0.0.1:{self.port}", "shutdown_timeout_s": 5},
            "paths": {"data_dir": str(self.data_dir), "run_dir": str(self.run_dir)},
            "docker": {"host": engine.socket_url, "network": self.network},
            "scaling": {"settle_s": 0, "start_backoff_s": 0.1},
            "log": {"format": "json"},
        }
        for section, values in (settings or {}).items():
            self.settings.setdefault(section, {}).update(values)
        self.config.write_text(as_toml(self.settings))
        self._env = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(env or {})
        self._forked = forked and not env
        self.log_path = self.folder / "gpud.log"
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._key = ""
        self._making_key = threading.Lock()

    # -- the process -----------------------------------------------------------------------------

    def start(self, *, wait: str = "/readyz") -> DaemonProcess:
        """Start it, and wait until `wait` (`/livez` or `/readyz`) answers 200; empty does not wait."""
        arguments = ["serve", "--config", str(self.config)]
        with self.log_path.open("ab") as log:
            if self._forked:
                self.process = ForkedProcess(arguments, cwd=ROOT, log_path=self.log_path)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "gpud", *arguments],
                    cwd=ROOT,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        if wait:
            until(lambda: self._answers(wait), what=f"{wait} answers 200", within_s=_START_TIMEOUT_S)
        return self

    def _answers(self, path: str) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended: {self.log_tail()}"
        try:
            return self.api("GET", path).status == 200
        except OSError:
            return False

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(_STOP_TIMEOUT_S)
        self.process = None
        return code

    def exit_code(self, *, within_s: float = _START_TIMEOUT_S) -> int:
        """Wait for the process to end by itself."""
        assert self.process is not None
        code = self.process.wait(within_s)
        self.process = None
        return code

    def clean_up(self) -> None:
        """End the process and remove its containers, network and folders."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(_STOP_TIMEOUT_S)
        if self.engine.answers():
            for container in self.containers():
                with contextlib.suppress(NotFound, APIError):
                    container.remove(force=True, v=True)
            for network in self.engine.client.networks.list(names=[self.network]):
                with contextlib.suppress(NotFound, APIError):
                    network.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- its doors -------------------------------------------------------------------------------

    def api(self, method: str, path: str, document: object = None, *, timeout_s: float = 30.0) -> Reply:
        """Call the API over the Unix socket."""
        body, headers = None, {}
        if document is not None:
            body, headers = json.dumps(document).encode(), {"Content-Type": "application/json"}
        connection = UnixConnection(self.run_dir / "api.sock", timeout_s=timeout_s)
        return exchange(connection, method, path, body=body, headers=headers)

    def get(self, path: str) -> Any:
        """GET a document of the API; the test ends when it is refused."""
        reply = self.api("GET", path)
        assert reply.status == 200, reply
        return reply.json()

    def deploy(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """PUT an endpoint that must be accepted; returns its document."""
        reply = self.api("PUT", f"/v1/endpoints/{spec['name']}", spec)
        assert reply.status in (200, 201), reply
        document: dict[str, Any] = reply.json()
        return document

    def endpoint(self, name: str) -> dict[str, Any]:
        """One endpoint as it is now."""
        document: dict[str, Any] = self.get(f"/v1/endpoints/{name}")
        return document

    def workers(self, name: str = "", *, state: str = "") -> list[dict[str, Any]]:
        """Live workers, of one endpoint and in one state where these are said."""
        rows = self.get(f"/v1/workers?limit=100&endpoint={name}")["items"]
        return [row for row in rows if not state or row["state"] == state]

    def ended_workers(self) -> list[dict[str, Any]]:
        """Workers that are gone, newest first."""
        rows = self.get("/v1/workers?include_gone=true&limit=500")["items"]
        return [row for row in rows if row["state"] == "gone"]

    def gpus(self) -> dict[str, dict[str, Any]]:
        """Every GPU by UUID."""
        return {gpu["uuid"]: gpu for gpu in self.get("/v1/gpus")["items"]}

    def events(self, kind: str = "", **facts: object) -> list[dict[str, Any]]:
        """Recorded events, oldest first: of one kind, with these facts (or `endpoint`, `worker_id`)."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.get(f"/v1/events?order=oldest&limit=500&cursor={cursor}")
            found += page["items"]
            if not page["next"]:
                break
            cursor = page["next"]
        return [
            event
            for event in found
            if (not kind or event["kind"] == kind)
            and all({**event["facts"], **event}.get(name) == value for name, value in facts.items())
        ]

    @property
    def key(self) -> str:
        """A key that may do everything, made at the first use."""
        with self._making_key:
            if not self._key:
                reply = self.api("POST", "/v1/keys", {"label": "tests", "scopes": ["admin"]})
                assert reply.status == 201, reply
                self._key = reply.json()["token"]
        return self._key

    def call(
        self,
        name: str,
        path: str = "/echo",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Reply:
        """Send a request to an endpoint over TCP.

        Raises:
            OSError: The connection broke or no answer came in time.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        return exchange(connection, method, f"/e/{name}{path}", body=body, headers=sent)

    def stream(self, name: str, path: str, *, timeout_s: float = 30.0) -> Stream:
        """Open an answer of an endpoint that is read as it comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        return Stream(connection, f"/e/{name}{path}", {"Authorization": f"Bearer {self.key}"})

    def cli(
        self, *words: str, stdin: str = "", env: Mapping[str, str] | None = None, tcp: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line against this daemon's Unix socket, or with `tcp` over its port with a key."""
        where = {"GPUD_SOCKET": str(self.run_dir / "api.sock")}
        if tcp:
            where = {"GPUD_URL": f"http://127.0.0.1:{self.port}", "GPUD_KEY": self.key}
        return subprocess.run(
            [sys.executable, "-m", "gpud", *words],
            cwd=ROOT,
            env=self._env | where | dict(env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    # -- what it leaves behind -------------------------------------------------------------------

    def containers(self) -> list[Container]:
        """Every container on the daemon's network, running or not."""
        return list(
            self.engine.client.containers.list(
                all=True, filters={"network": self.network}, ignore_removed=True
            )
        )

    def container_of(self, worker_id: str) -> Container:
        """The container of a worker."""
        return self.engine.client.containers.get(f"gpud-{worker_id}")

    def log_text(self) -> str:
        """All that every run of this daemon has written."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log_text().splitlines()[-_LOG_TAIL_LINES:])

    def log_lines(self, event: str = "", **fields: object) -> list[dict[str, Any]]:
        """The log's JSON lines: of one event, with these fields."""
        lines = []
        for text in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    lines.append(line)
        return [
            line
            for line in lines
            if (not event or line.get("event") == event)
            and all(line.get(name) == value for name, value in fields.items())
        ]

    def rows(self, query: str, *parameters: object) -> list[sqlite3.Row]:
        """Read the database beside the daemon, as an auditor would."""
        connection = sqlite3.connect(f"file:{self.data_dir}/gpud.db?mode=ro", uri=True, timeout=5)
        connection.row_factory = sqlite3.Row
        with contextlib.closing(connection):
            return connection.execute(query, parameters).fetchall()

    def wait_on_disk(self) -> None:
        """Wait until what the API tells of workers and standbys is durable; it tells of moves before that."""

        def same() -> bool:
            endpoints = self.get("/v1/endpoints?limit=500")["items"]
            standbys = [each for one in endpoints for each in self.endpoint(one["name"])["standbys"]]
            told = {each["id"]: each["state"] for each in self.workers() + standbys}
            kept = self.rows("SELECT id, state FROM worker WHERE state != 'gone'")
            kept += self.rows("SELECT id, state FROM standby WHERE state != 'claimed'")
            return told == {row["id"]: row["state"] for row in kept}

        until(same, what="the database says what the API does")

    def audit(self) -> None:
        """Ask `gpud audit`; the test ends when the books do not hold."""
        said = self.cli("audit")
        assert said.returncode == 0, said.stdout + said.stderr

    # -- waiting ---------------------------------------------------------------------------------

    def wait_ready(self, name: str, count: int = 1, *, within_s: float = 20.0) -> list[dict[str, Any]]:
        """Wait until an endpoint has that many ready workers; returns them."""

        def ready() -> list[dict[str, Any]]:
            found = self.workers(name, state="ready")
            return found if len(found) == count else []

        return until(ready, what=f"{count} ready workers of {name}", within_s=within_s)

    def wait_zero(self, name: str = "", *, within_s: float = 20.0) -> None:
        """Wait until no worker (of an endpoint) and no container of one is left."""
        until(
            lambda: not self.workers(name), what=f"no worker of {name or 'anyone'} is left", within_s=within_s
        )
        if not name:
            until(lambda: not self.containers(), what="no container is left", within_s=within_s)


def worker_spec(
    name: str, image: str, *, env: Mapping[str, object] | None = None, **fields: Any
) -> dict[str, Any]:
    """A spec of the worker with knobs, quick to start and stop.

    Args:
        name: Of the endpoint.
        image: The worker's.
        env: Its knobs.
        fields: Of the spec; sections are merged into these defaults.
    """
    spec: dict[str, Any] = {
        "name": name,
        "image": image,
        "port": 8000,
        "env": {key: str(value) for key, value in (env or {}).items()},
        "health": {"path": "/health", "period_s": 0.5, "start_timeout_s": 20},
        "scale": {"idle_timeout_s": 60},
        "limits": {"stop_grace_s": 5, "shm_mib": 16},
    }
    for field, value in fields.items():
        spec[field] = {**spec[field], **value} if isinstance(value, dict) and field in spec else value
    return spec


def free_port() -> int:
    """A port that nobody uses, from a range the system does not hand out by itself."""
    for port in random.SystemRandom().sample(_PORTS, 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no free port")


def as_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Write sections as TOML: plain values, lists of them, and lists of tables."""
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {_toml_value(value)}" for name, value in values.items() if not _is_tables(value)]
        for name, value in values.items():
            if _is_tables(value):
                for table in value:
                    lines.append(f"[[{section}.{name}]]")
                    lines += [f"{key} = {_toml_value(held)}" for key, held in table.items()]
    return "\n".join(lines) + "\n"


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _toml_value(value: object) -> str:
    return json.dumps(value)  # JSON's strings, numbers, booleans and lists are TOML's.
