"""Puts the images the tests run onto an engine: the base image, the worker with knobs, the static server.

An image that is there already, made from the same files, is left alone.
By hand: `python -m tests.rig.images unix:///run/docker.sock`.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import ImageNotFound

from tests.rig.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE_IMAGE = "gpud/python-base:12"
WORKER_IMAGE = "gpud/rig-worker:1"
STATIC_IMAGE = "gpud/rig-static:1"

_HERE = Path(__file__).parent
_ENGINE_SH = _HERE.parent.parent / "scripts/lib/engine.sh"
_BASE_ARCHIVE_SCRIPT = 'set -euo pipefail; . "$1"; need_base_archive'
_BASE_LABEL = "gpud.base"
_SOURCE_LABEL = "gpud.rig.source"
_BASE_CHANGES = (
    'CMD ["python3"]',
    "ENV LANG=C.UTF-8",
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)


class BuildFailed(Exception):
    """A command that builds a part of the rig failed; the message ends with its output."""


def cache_dir() -> Path:
    """Where files that take long to make are kept between test runs."""
    default = "/var/cache/gpud" if os.geteuid() == 0 else str(Path.home() / ".cache/gpud")
    folder = Path(os.environ.get("GPUD_CACHE_DIR", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_or_explain(*command: str) -> str:
    """Runs a command and returns its output.

    Raises:
        BuildFailed: It failed.
    """
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if finished.returncode != 0:
        output = finished.stdout[-1000:] + finished.stderr[-2000:]
        raise BuildFailed(f"{command[0]} ended with {finished.returncode}:\n{output}")
    return finished.stdout


def ensure_base_image(engine: Engine) -> str:
    """The image the others start from, imported from a file made once on this machine; returns its name."""
    archive = Path(run_or_explain("bash", "-c", _BASE_ARCHIVE_SCRIPT, "bash", str(_ENGINE_SH)).strip())
    # An image pulled from elsewhere names no recipe and is good as it is; one of another recipe is made anew.
    if _label_of(engine, BASE_IMAGE, _BASE_LABEL) not in ("", archive.name):
        repository, tag = BASE_IMAGE.split(":")
        changes = [*_BASE_CHANGES, f"LABEL {_BASE_LABEL}={archive.name}"]
        with archive.open("rb") as file:
            parameters = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": changes}
            api = engine.client.api
            # Posted by hand: the client's own import reads the whole file into memory.
            response = api.post(api._url("/images/create"), data=file, params=parameters, timeout=120)
            response.raise_for_status()
        engine.client.images.get(BASE_IMAGE)
    return BASE_IMAGE


def ensure_worker_image(engine: Engine) -> str:
    """The worker with knobs (`tests/rig/worker/worker.py`); returns its name."""
    folder = _HERE / "worker"
    files = {path.name: path.read_bytes() for path in (folder / "Dockerfile", folder / "worker.py")}
    if not _is_current(engine, WORKER_IMAGE, files):
        ensure_base_image(engine)
        build_image(engine, WORKER_IMAGE, files)
    return WORKER_IMAGE


def ensure_static_image(engine: Engine) -> str:
    """The smallest server, one static binary, for timing starts; returns the image's name."""
    folder = _HERE / "static"
    source = folder / "server.c"
    sources = {"Dockerfile": (folder / "Dockerfile").read_bytes(), source.name: source.read_bytes()}
    if not _is_current(engine, STATIC_IMAGE, sources):
        binary = cache_dir() / f"rig-static-{_digest(sources)}"
        if not binary.exists():
            part = binary.with_suffix(f".{os.getpid()}")
            run_or_explain(
                "gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-s", "-o", str(part), str(source)
            )
            part.rename(binary)
        files = {"Dockerfile": sources["Dockerfile"], "server": binary.read_bytes()}
        build_image(engine, STATIC_IMAGE, files, source_digest=_digest(sources))
    return STATIC_IMAGE


def build_image(
    engine: Engine, name: str, files: Mapping[str, bytes], *, source_digest: str | None = None
) -> str:
    """Builds an image from files held in memory, a Dockerfile among them; returns its name."""
    labels = {_SOURCE_LABEL: source_digest or _digest(files)}
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    context.seek(0)
    engine.client.images.build(
        fileobj=context, custom_context=True, tag=name, labels=labels, rm=True, forcerm=True, pull=False
    )
    return name


def _is_current(engine: Engine, name: str, files: Mapping[str, bytes]) -> bool:
    return _label_of(engine, name, _SOURCE_LABEL) == _digest(files)


def _label_of(engine: Engine, name: str, label: str) -> str | None:
    """The value of an image's label, empty without the label, None without the image."""
    try:
        return str(engine.client.images.get(name).labels.get(label, ""))
    except ImageNotFound:
        return None


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.encode() + b"\0" + files[path] + b"\0")
    return digest.hexdigest()[:16]


def main() -> None:
    """Puts all images onto the engine whose socket URL is the first argument."""
    engine = Engine(sys.argv[1])
    for ensure in (ensure_base_image, ensure_worker_image, ensure_static_image):
        sys.stdout.write(f"{ensure(engine)}\n")


if __name__ == "__main__":
    main()
