"""How every benchmark says what it measured: rows of a metric and its subjects, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two flags every benchmark has."""
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a figure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")


class Report:
    """Collects rows and writes them.

    Args:
        bench: Name of the benchmark.
        packages: Python packages whose versions the figures depend on.
    """

    def __init__(self, bench: str, packages: Sequence[str] = ()) -> None:
        self.bench = bench
        self.versions = {"python": platform.python_version(), "kernel": platform.release()}
        self.versions |= {name: metadata.version(name) for name in packages}
        self._rows: list[dict[str, Any]] = []

    def add(self, metric: str, subject: str, unit: str, samples: Sequence[float]) -> None:
        """Add one subject's samples of a metric."""
        row = {
            "metric": metric,
            "subject": subject,
            "unit": unit,
            "n": len(samples),
            "median": statistics.median(samples),
            "min": min(samples),
            "max": max(samples),
        }
        self._rows.append(row)

    def finish(self, options: argparse.Namespace) -> None:
        """Print the table, and write the JSON where it was asked for."""
        if not self._rows:
            print(f"{self.bench}: nothing was measured")
            return
        print(f"{self.bench} on {_machine()}, {_versions_text(self.versions)}")
        widths = [max(len(row[name]) for row in self._rows) for name in ("metric", "subject")]
        heads = " ".join(f"{name:>12}" for name in ("median", "min", "max"))
        print(f"{'metric':{widths[0]}}  {'subject':{widths[1]}}  {heads}  unit, n")
        for row in self._rows:
            figures = " ".join(f"{_figure(row[name]):>12}" for name in ("median", "min", "max"))
            names = f"{row['metric']:{widths[0]}}  {row['subject']:{widths[1]}}"
            print(f"{names}  {figures}  {row['unit']}, {row['n']}")
        if options.json:
            document = {
                "bench": self.bench,
                "machine": _machine(),
                "versions": self.versions,
                "rows": self._rows,
            }
            options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _versions_text(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next(
        (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "?"
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {memory_gib:.0f} GiB"
