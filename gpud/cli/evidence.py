"""Gathers what a support bundle holds: the daemon's documents, its log, versions; without secret fields."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpud import __version__
from gpud.cli.client import path_of
from gpud.cli.exits import CommandFailed
from gpud.cli.output import rows_at, text_at
from gpud.core.support import without_secrets

if TYPE_CHECKING:
    from gpud.cli.client import Client
    from gpud.cli.context import Context
    from gpud.cli.examining import Examined
    from gpud.cli.values import Values

_EVENTS = 500
_STARTS = 50
_WORKERS = 200
_JOURNAL_S = 15.0
_LINE_BYTES_MAX = 8192
_LISTINGS = {
    "workers.json": "/v1/workers",
    "standbys.json": "/v1/standbys",
    "gpus.json": "/v1/gpus",
    "images.json": "/v1/images",
}


class Gathered(NamedTuple):
    """What was gathered.

    Args:
        files: By name in the bundle.
        secrets: Values that were taken out of fields.
        missing: What could not be had, as sentences.
    """

    files: dict[str, bytes]
    secrets: list[str]
    missing: list[str]


def gather(values: Values, context: Context, examined: Examined) -> Gathered:
    """Gather everything; what cannot be had is said and left out."""
    gathered = Gathered({}, [], [])
    _put(gathered, "doctor.json", examined.document())
    _put(gathered, "versions.json", _versions())
    _put(gathered, "settings.json", json.loads(examined.settings.model_dump_json()))
    lines = max(int(values.number("lines", 2000)), 1)
    if examined.daemon_answers:
        client = context.new_client(default_socket=examined.socket)
        try:
            _ask(client, gathered)
            if values.flag("worker-logs"):
                _worker_logs(client, gathered, lines)
        finally:
            client.close()
    else:
        gathered.missing.append("The daemon does not answer, so nothing that only it knows is in it.")
    _daemon_log(values.text("log"), gathered, lines)
    key = context.environment("GPUD_KEY")
    if key:
        gathered.secrets.append(key)
    gathered.files["README.txt"] = _readme(gathered)
    return gathered


def _put(gathered: Gathered, name: str, document: object) -> None:
    shown, secrets = without_secrets(document)
    gathered.files[name] = json.dumps(shown, indent=1, ensure_ascii=False).encode()
    gathered.secrets.extend(secrets)


def _versions() -> dict[str, object]:
    packages = sorted({dist.metadata["Name"]: dist.version for dist in metadata.distributions()}.items())
    return {
        "gpud": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "os": _os_release(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": dict(packages),
    }


def _os_release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _ask(client: Client, gathered: Gathered) -> None:
    for name, path in {"system.json": "/v1/system", **_LISTINGS}.items():
        try:
            found: object = client.items(path) if name in _LISTINGS else client.get(path)
        except CommandFailed as failure:
            gathered.missing.append(f"{name}: {failure.what}")
            continue
        _put(gathered, name, found)
    for ask in (_ask_of_endpoints, _ask_of_events, _ask_for_metrics):
        try:
            ask(client, gathered)
        except CommandFailed as failure:
            gathered.missing.append(f"The daemon did not tell everything: {failure.what}")


def _ask_of_endpoints(client: Client, gathered: Gathered) -> None:
    endpoints = client.items("/v1/endpoints")
    _put(gathered, "endpoints.json", endpoints)
    starts, revisions = {}, {}
    for name in (text_at(endpoint, "name") for endpoint in endpoints):
        page = client.get(path_of("v1", "endpoints", name, "starts"), {"limit": _STARTS})
        starts[name] = rows_at(page, "items")
        revisions[name] = client.items(path_of("v1", "endpoints", name, "revisions"))
    _put(gathered, "cold-starts.json", starts)
    _put(gathered, "revisions.json", revisions)


def _ask_of_events(client: Client, gathered: Gathered) -> None:
    events = client.get("/v1/events", {"limit": _EVENTS, "order": "newest"})
    _put(gathered, "events.json", rows_at(events, "items"))


def _ask_for_metrics(client: Client, gathered: Gathered) -> None:
    gathered.files["metrics.txt"] = _text(client, "/metrics")


def _text(client: Client, path: str) -> bytes:
    answer = client.send("GET", path)
    content = answer.read()
    if answer.status >= 400:
        raise client.problem(answer, content)
    return content


def _worker_logs(client: Client, gathered: Gathered, lines: int) -> None:
    try:
        workers = client.get("/v1/workers", {"include_gone": "true", "limit": _WORKERS})
    except CommandFailed as failure:
        gathered.missing.append(f"The workers' logs: {failure.what}")
        return
    for worker_id in (text_at(worker, "id") for worker in rows_at(workers, "items")):
        try:
            page = client.get("/v1/logs", {"worker": worker_id, "limit": min(lines, 5000)})
        except CommandFailed:
            continue
        rows = rows_at(page, "items")
        told = [f"{text_at(row, 'at')} {text_at(row, 'stream')} {text_at(row, 'text')}" for row in rows]
        if told:
            gathered.files[f"workers/{worker_id}.log"] = ("\n".join(told) + "\n").encode()


def _daemon_log(path: str, gathered: Gathered, lines: int) -> None:
    if path:
        try:
            with Path(path).open("rb") as file:
                last = deque(file, maxlen=lines)
        except OSError as error:
            gathered.missing.append(f"The daemon's log {path} cannot be read: {error.strerror}.")
            return
        gathered.files["daemon.log"] = b"".join(line[:_LINE_BYTES_MAX] for line in last)
        return
    program = shutil.which("journalctl")
    told = b""
    if program:
        command = [program, "--unit", "gpud", "--lines", str(lines), "--no-pager", "--output", "cat"]
        try:
            ran = subprocess.run(command, capture_output=True, timeout=_JOURNAL_S, check=False)  # noqa: S603
            told = ran.stdout if ran.returncode == 0 else b""
        except (OSError, subprocess.TimeoutExpired):
            told = b""
    if told.strip():
        gathered.files["daemon.log"] = told
    else:
        gathered.missing.append("The journal has nothing of gpud; name its log with --log FILE.")


def _readme(gathered: Gathered) -> bytes:
    lines = [
        "A support bundle of gpud.",
        "",
        "[redacted] stands for what was taken out: values of environment variables, passwords, keys, tokens,",
        "URLs of webhooks; by field, by value wherever it occurs, and by how secrets are spelled.",
        "Inputs and results of jobs are not in it.",
        "",
        *[f"- {name}" for name in sorted(gathered.files)],
        *[f"Missing: {told}" for told in gathered.missing],
    ]
    return ("\n".join(lines) + "\n").encode()
