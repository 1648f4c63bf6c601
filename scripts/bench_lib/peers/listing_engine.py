"""Answers as a Docker Engine that has 200 of gpud's containers would; for measuring what a listing costs.

listing_engine.py SOCKET
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

from aiohttp import web

from gpud.adapters import docker_seen

CONTAINERS = 200
_PARENT_DEATH_SIGNAL = 1
_LETTERS = str.maketrans("0123456789", "abcdefghij")
_WORDY = {f"org.example.label-{number}": "x" * 40 for number in range(8)}


def _labels(number: int) -> dict[str, str]:
    return {
        docker_seen.LABEL_INSTALL: "bench",
        docker_seen.LABEL_WORKER: f"wk_{number:016d}".replace("0", "a")
        .replace("1", "b")
        .replace("8", "c")
        .replace("9", "d"),
        docker_seen.LABEL_ENDPOINT: f"bench-{number}",
        docker_seen.LABEL_REVISION: "rev_" + "a" * 16,
        docker_seen.LABEL_GENERATION: "1",
        docker_seen.LABEL_GPUS: f"GPU-{number}",
        **_WORDY,
    }


def _networks(number: int) -> dict[str, Any]:
    return {
        "Networks": {
            "gpud": {"IPAddress": f"10.0.{number // 200}.{number % 200 + 1}", "MacAddress": "x" * 17}
        }
    }


def _row(number: int) -> dict[str, Any]:
    return {
        "Id": f"{number:064x}",
        "Names": [f"/gpud-{number}"],
        "Image": "sha256:" + "0" * 64,
        "Command": "python -m server --port 8000",
        "State": "running",
        "Status": "Up 2 hours",
        "Labels": _labels(number),
        "NetworkSettings": _networks(number),
        "Mounts": [],
    }


def _inspected(number: int) -> dict[str, Any]:
    return {
        "Id": f"{number:064x}",
        "Created": "2026-01-01T00:00:00.000000000Z",
        "Config": {"Labels": _labels(number)},
        "State": {
            "Status": "running",
            "StartedAt": "2026-01-01T00:00:01Z",
            "ExitCode": 0,
            "Pid": 1,
            "Error": "",
        },
        "NetworkSettings": _networks(number),
    }


async def _answer(request: web.Request) -> web.Response:
    path = request.path
    if path.endswith("/_ping"):
        return web.Response(text="OK", headers={"API-Version": "1.41"})
    if path.endswith("/version"):
        return web.json_response({"Version": "20.10", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})
    if path.endswith("/containers/json"):
        return web.json_response([_row(number) for number in range(CONTAINERS)])
    return web.json_response(_inspected(int(path.split("/")[-2], 16)))


ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
os.sched_setaffinity(0, range(os.cpu_count() or 1))  # not only where its parent may run
application = web.Application()
application.router.add_get("/{path:.*}", _answer)
web.run_app(application, path=sys.argv[1], access_log=None, print=lambda text: print(text, flush=True))
