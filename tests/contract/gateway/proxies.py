"""nginx and haproxy as processes of a test's own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

DEADLINE_S = 15.0
_PORTS = range(30_000, 32_000)  # Apart from those that daemons of tests take.
_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {servers}
}}
"""
_HAPROXY = """
global
  nbthread 1
defaults
  mode http
  option http-no-delay
  option abortonclose
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
"""
needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, from a range the system does not hand out by itself."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@contextlib.asynccontextmanager
async def nginx(folder: Path, servers: str, port: int) -> AsyncIterator[None]:
    """Run nginx with these server blocks until the end of the block."""
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, servers=servers), encoding="utf-8")
    async with _running(["nginx", "-p", str(folder), "-e", f"{folder}/early.log", "-c", str(config)], port):
        yield


@contextlib.asynccontextmanager
async def haproxy(folder: Path, sections: str, port: int) -> AsyncIterator[None]:
    """Run haproxy with these sections until the end of the block."""
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY + sections, encoding="utf-8")
    async with _running(["haproxy", "-db", "-f", str(config)], port):
        yield


def haproxy_sections(pairs: Sequence[tuple[int, int]]) -> str:
    """One front and one back for each pair of ports."""
    return "".join(
        f"frontend f{port}\n  bind 127.0.0.1:{port}\n  default_backend b{port}\n"
        f"backend b{port}\n  server s 127.0.0.1:{upstream}\n"
        for port, upstream in pairs
    )


def nginx_servers(pairs: Sequence[tuple[int, int]]) -> str:
    """One server for each pair of ports, forwarding as little changed as nginx can."""
    return "".join(
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; "
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; '
        "proxy_request_buffering off; client_max_body_size 0; } }\n"
        for port, upstream in pairs
    )


@contextlib.asynccontextmanager
async def _running(command: list[str], port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await _listens(port):
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
