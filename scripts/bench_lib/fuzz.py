"""Feeds the gateway's parsers what no test thought of, for as long as it is told.

Each parser of tests/unit/gateway/parsers.py is searched by atheris (libFuzzer: mutations guided by the
branches they reach), from the inputs in `tests/unit/gateway/corpus` on. What reaches a new branch is kept
there, smallest first; a test replays it. A search fails on an exception, on an input that takes longer than
five seconds, and on a process that grows beyond 512 MiB; the input is then kept as `found-*`.

atheris comes from PyPI into `var/bench-fuzz`, because it has no wheel for every Python.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_lib.report import Report, add_arguments

from tests.unit.gateway.parsers import PARSERS

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "var" / "bench-fuzz"
CORPUS = ROOT / "tests" / "unit" / "gateway" / "corpus"
INPUT_BYTES_MAX = 4096
KEPT_MAX = 150
_DRIVER = """#!{python}
import sys, atheris
with atheris.instrument_imports(include=["gpud.gateway"]):
    import tests.unit.gateway.parsers as parsers
atheris.Setup(sys.argv, parsers.PARSERS[{name!r}][0])
atheris.Fuzz()
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench fuzz", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seconds", type=int, default=600, help="for each parser")
    parser.add_argument("--parsers", default=",".join(PARSERS), help="which to search")
    options = parser.parse_args(argv)
    seconds = 5 if options.quick else options.seconds
    if not _installed():
        print("atheris is not installed and could not be", file=sys.stderr)
        return 1
    report, broken = Report("fuzz", ["httptools"]), 0
    for name in options.parsers.split(","):
        broken += _search(name, seconds, report)
    report.finish(options)
    print(f"{broken} parsers broke" if broken else "no parser broke")
    return 1 if broken else 0


def _installed() -> bool:
    if not (PACKAGES / "atheris").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PACKAGES)]
        subprocess.run([*pip, "atheris>=3"], check=False)
    return (PACKAGES / "atheris").exists()


def _search(name: str, seconds: int, report: Report) -> bool:
    kept = CORPUS / name
    with TemporaryDirectory(prefix="bench-fuzz-") as folder:
        seeds, grown, small = Path(folder) / "seeds", Path(folder) / "grown", Path(folder) / "small"
        for made in (seeds, grown, small, kept):
            made.mkdir(parents=True, exist_ok=True)
        for data in PARSERS[name][1]:
            (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        driver = Path(folder) / "driver"  # a file of its own, because a merge runs it again by its path
        driver.write_text(_DRIVER.format(python=sys.executable, name=name), encoding="utf-8")
        driver.chmod(0o755)
        limits = [f"-max_total_time={seconds}", "-print_final_stats=1", f"-artifact_prefix={folder}/"]
        ended = _atheris(driver, *limits, grown, kept, seeds)
        found = [path for path in Path(folder).glob("*-*") if path.is_file()]
        for path in found:
            shutil.copy(path, kept / f"found-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")
        if ended.returncode:
            told = [*ended.stdout.splitlines()[-15:], *ended.stderr.splitlines()[-10:]]
            print("\n".join([f"{name}:", *told]), file=sys.stderr)
        _atheris(driver, "-merge=1", small, kept, seeds, grown)
        _keep(small, kept, seeds)
    for metric, unit in (("number_of_executed_units", "inputs"), ("peak_rss_mb", "MiB")):
        told = re.search(rf"stat::{metric}:\s+(\d+)", ended.stderr)
        report.add(f"{name} {unit}", "gpud", unit, [int(told.group(1)) if told else 0])
    return ended.returncode != 0


def _atheris(driver: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    limits = [f"-max_len={INPUT_BYTES_MAX}", "-rss_limit_mb=512", "-timeout=5"]
    command = [str(driver), *limits, *(str(argument) for argument in arguments)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{PACKAGES}"}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, check=False
    )


def _keep(small: Path, kept: Path, seeds: Path) -> None:
    """Leave the smallest inputs that between them reach what was reached, and every find."""
    own = {path.read_bytes() for path in seeds.iterdir()}
    wanted = sorted((path.read_bytes() for path in small.iterdir()), key=len)
    wanted = [data for data in wanted if data not in own][:KEPT_MAX]
    for path in kept.iterdir():
        if not path.name.startswith("found-"):
            path.unlink()
    for data in wanted:
        (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
