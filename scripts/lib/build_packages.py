"""Builds the sdist from the files git knows, and the wheel from the sdist, which proves the sdist whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NOT_SOURCES = shutil.ignore_patterns(
    ".venv", ".git", "var", "dist", "build", "node_modules", "*.egg-info", "__pycache__"
)


def main() -> int:
    out = Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", _committed_at())
    with tempfile.TemporaryDirectory(prefix="gpud-build-") as folder:
        tree = Path(folder, "tree")
        _copy_sources(tree)
        sdist = out / _backend("build_sdist", tree, out)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        wheel = out / _backend("build_wheel", Path(folder, sdist.name.removesuffix(".tar.gz")), out)
    print(sdist, wheel, sep="\n")
    return 0


def _committed_at() -> str:
    """The last commit's time, so that one commit gives one wheel; outside git a fixed one."""
    told = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "1735689600"


def _copy_sources(tree: Path) -> None:
    """What git knows or would add; in an unpacked sdist, all that is no product of a build."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, tree, ignore=_NOT_SOURCES, symlinks=True)
        return
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, tree / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _backend(hook: str, tree: Path, out: Path) -> str:
    """Run a hook of the build backend in a process of its own, and return the name of what it made."""
    call = (
        "import pathlib, sys; _, out, answer = sys.argv; from setuptools import build_meta; "
        f"pathlib.Path(answer).write_text(build_meta.{hook}(out))"
    )
    with tempfile.NamedTemporaryFile("r") as answer:
        done = subprocess.run(
            [sys.executable, "-c", call, out, answer.name],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"scripts/build-packages: {hook} failed:\n{done.stdout}{done.stderr}")
        if "warning: built without the shim" in done.stderr:
            print(
                "warning: no C compiler, so the wheel has no shim and its workers are not parked",
                file=sys.stderr,
            )
        return answer.read()


if __name__ == "__main__":
    sys.exit(main())
