"""The same job elsewhere: twenty requests meet a service that is not running and takes 3 s to start.

Each subject is asked with twenty requests at once; clients do not try again. What was answered with 200
counts, and the time until the first of these. Where a proxy refuses, a client that asks every 50 ms tells
when it could be reached. uWSGI starts its worker itself (`cheap`), systemd's socket proxy is started by
the first connection together with the service, configurable-http-proxy and LiteLLM stand in front of a
service that somebody starts at that moment. Only gpud's service is in a container, whose start is part of
its time. Peers that cannot be installed here are left out, and said to be.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench_lib.gateway_peers import CACHE as GATEWAY_CACHE
from bench_lib.gateway_peers import INSTALL_WITHIN_S, LITELLM_KEY, compiled, proxy_command

from tests.e2e.daemon import free_port
from tests.e2e.waiting import until
from tests.rig.images import WORKER_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench_lib.report import Report

    from tests.e2e.daemon import DaemonProcess

REQUESTS = 20
BOOT_S = 3.0
CACHE = Path(__file__).parents[2] / "var" / "bench-coldstart"
CHP_VERSION, UWSGI_VERSION = "5.3.0", "2.0.28"
_WORKER = Path(__file__).parents[2] / "tests/rig/worker/worker.py"
_PROXYD = Path("/lib/systemd/systemd-socket-proxyd")
_UWSGI_APP = f"""
import time
time.sleep({BOOT_S})
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
_ACTIVATED = """
PORT={backend} BOOT_DELAY_S={boot_s} {python} {worker} &
until {python} -c 'import socket; socket.create_connection(("127.0.0.1", {backend}))' 2>&-
do sleep 0.01
done
exec {proxyd} 127.0.0.1:{backend}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What twenty clients saw."""

    lost: int
    first_byte_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How a subject is asked."""

    port: int
    path: str = "/echo"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


def measure_peers(report: Report, daemon: DaemonProcess, rounds: int) -> None:
    """Add what was lost and how long the first answer took, for gpud and each peer that runs here."""
    with tempfile.TemporaryDirectory(prefix="gpud-peers-") as folder:
        subjects: dict[str, Callable[[], Outcome | None]] = {
            "gpud": lambda: _gpud(daemon),
            "uwsgi_cheap": lambda: _uwsgi(Path(folder)),
            "systemd_socket_proxyd": lambda: _socket_proxyd(Path(folder)),
            "configurable_http_proxy": _chp,
            "litellm": lambda: _litellm(Path(folder), report),
        }
        for subject, measure in subjects.items():
            outcomes = [outcome for _ in range(rounds) if (outcome := _outcome(measure)) is not None]
            if not outcomes:
                print(f"{subject} cannot be had here and is left out", file=sys.stderr)
                continue
            report.add("peers_lost_of_20", subject, "requests", [float(each.lost) for each in outcomes])
            report.add("peers_first_byte_ms", subject, "ms", [each.first_byte_ms for each in outcomes])
    if "peers-python3s" in {row["name"] for row in daemon.get("/v1/endpoints")["items"]}:
        assert daemon.api("DELETE", "/v1/endpoints/peers-python3s").status == 204
        daemon.wait_zero(within_s=60)


def _outcome(measure: Callable[[], Outcome | None]) -> Outcome | None:
    try:
        return measure()
    except (TimeoutError, AssertionError, subprocess.TimeoutExpired) as error:
        print(f"a round was given up: {error}", file=sys.stderr)
        return None


def _twenty(request: Request) -> Outcome:
    began_s = time.perf_counter()

    def one(_: int) -> float:
        return time.perf_counter() - began_s if _ask(request) else 0.0

    with ThreadPoolExecutor(REQUESTS) as pool:
        answered = [took_s for took_s in pool.map(one, range(REQUESTS)) if took_s]
    lost = REQUESTS - len(answered)
    while not answered:
        time.sleep(0.05)
        if _ask(request):
            answered = [time.perf_counter() - began_s]
        if time.perf_counter() - began_s > 60:
            raise TimeoutError("the service never answered")
    return Outcome(lost=lost, first_byte_ms=min(answered) * 1000)


def _ask(request: Request) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", request.port, timeout=60)
    try:
        method = "POST" if request.body is not None else "GET"
        connection.request(method, request.path, request.body, dict(request.headers))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _gpud(daemon: DaemonProcess) -> Outcome:
    name = "peers-python3s"
    daemon.deploy(
        {
            "name": name,
            "image": WORKER_IMAGE,
            "port": 8000,
            "env": {"BOOT_DELAY_S": str(BOOT_S)},
            "health": {"path": "/health"},
            "gpus": {"count": 0},
            "scale": {
                "idle_timeout_s": 0,
                "scale_down_delay_s": 0,
                "max_workers": 1,
                "concurrency": REQUESTS,
            },
        }
    )
    until(lambda: not daemon.workers(name), what="the endpoint is at zero", within_s=60)
    headers = (("Authorization", f"Bearer {daemon.key}"),)
    return _twenty(Request(port=daemon.port, path=f"/e/{name}/echo", headers=headers))


def _uwsgi(folder: Path) -> Outcome | None:
    venv = CACHE / "uwsgi"
    program = venv / "bin" / "uwsgi"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        install = [str(venv / "bin" / "pip"), "install", "--quiet", f"uwsgi=={UWSGI_VERSION}"]
        if subprocess.run(
            install, stderr=subprocess.DEVNULL, check=False, timeout=INSTALL_WITHIN_S
        ).returncode:
            return None
    app = folder / "cold_app.py"
    app.write_text(_UWSGI_APP, encoding="ascii")
    port = free_port()
    command = [str(program), "--http", f"127.0.0.1:{port}", "--wsgi-file", str(app), "--master", "--cheap"]
    command += ["--idle", "60", "--lazy-apps", "--processes", "1", "--threads", str(REQUESTS)]
    with _running(command, port):
        return _twenty(Request(port=port))


def _socket_proxyd(folder: Path) -> Outcome | None:
    if shutil.which("systemd-socket-activate") is None or not _PROXYD.exists():
        return None
    port, backend = free_port(), free_port()
    script = folder / "activated"
    text = _ACTIVATED.format(
        backend=backend, boot_s=BOOT_S, python=sys.executable, worker=_WORKER, proxyd=_PROXYD
    )
    script.write_text(text, encoding="utf-8")
    with _running(["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "sh", str(script)], 0):
        time.sleep(0.5)  # A look at the port would start the service.
        return _twenty(Request(port=port))


def _chp() -> Outcome | None:
    program = CACHE / "chp/node_modules/.bin/configurable-http-proxy"
    if not program.exists():
        if shutil.which("npm") is None:
            return None
        program.parents[2].mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--no-audit", "--no-fund", f"configurable-http-proxy@{CHP_VERSION}"]
        quiet = subprocess.DEVNULL
        if subprocess.run(
            install,
            cwd=program.parents[2],
            stdout=quiet,
            stderr=quiet,
            check=False,
            timeout=INSTALL_WITHIN_S,
        ).returncode:
            return None
    port, api, backend = free_port(), free_port(), free_port()
    command = [str(program), "--ip", "127.0.0.1", "--port", str(port), "--api-port", str(api)]
    command += ["--default-target", f"http://127.0.0.1:{backend}"]
    with _running(command, port), _service(backend):
        return _twenty(Request(port=port))


def _litellm(folder: Path, report: Report) -> Outcome | None:
    port, backend = free_port(), free_port()
    GATEWAY_CACHE.mkdir(parents=True, exist_ok=True)
    command = proxy_command("litellm", port, backend, folder, report)
    if command is None:
        return None
    body = b'{"model": "plain", "messages": [{"role": "user", "content": "x"}]}'
    headers = (("Authorization", f"Bearer {LITELLM_KEY}"), ("Content-Type", "application/json"))
    completions = ["sh", "-c", f"sleep {BOOT_S}; exec {compiled('backend')} {backend}"]
    with _running(command, port, within_s=180), _running(completions, 0):
        return _twenty(Request(port=port, path="/v1/chat/completions", headers=headers, body=body))


@contextlib.contextmanager
def _service(port: int) -> Iterator[None]:
    """The service that somebody starts by hand, at this moment."""
    environment = {"PORT": str(port), "BOOT_DELAY_S": str(BOOT_S)}
    with _running([sys.executable, str(_WORKER)], 0, environment=environment):
        yield


@contextlib.contextmanager
def _running(
    command: list[str], port: int, *, within_s: float = 30.0, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """A process and all it starts; waits for its port, if one is given."""
    process = subprocess.Popen(
        command,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if port:
            until(lambda: _listens(port), what=f"{command[0]} listens", within_s=within_s)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
