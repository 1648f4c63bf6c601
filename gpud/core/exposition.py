"""Writes metrics in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpud.core.fleet_tally import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]
_UNSAFE = ('"', "\\", "\n")


class Exposition:
    """Collects metric families and writes them; about a microsecond a sample."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauge(self, name: str, what: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Add values that go up and down."""
        self._family(name, what, "gauge", samples)

    def counter(self, name: str, what: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Add values that only grow, until a restart."""
        self._family(name, what, "counter", samples)

    def summary(self, name: str, what: str, total: float, count: int) -> None:
        """Add a sum and a count."""
        self._head(name, what, "summary")
        self._lines += [f"{name}_sum {number(total)}", f"{name}_count {count}"]

    def histogram(self, name: str, what: str, samples: Iterable[tuple[Labels, Histogram]]) -> None:
        """Add distributions."""
        self._head(name, what, "histogram")
        for labels, histogram in samples:
            told = _told(labels)
            inner = told[1:-1] + "," if told else ""
            self._lines += [
                f'{name}_bucket{{{inner}le="{bound}"}} {count}' for bound, count in histogram.cumulative()
            ]
            self._lines += [
                f"{name}_sum{told} {number(histogram.total)}",
                f"{name}_count{told} {histogram.count}",
            ]

    def _family(self, name: str, what: str, kind: str, samples: Iterable[tuple[Labels, float]]) -> None:
        self._head(name, what, kind)
        self._lines += [f"{name}{_told(labels)} {number(value)}" for labels, value in samples]

    def _head(self, name: str, what: str, kind: str) -> None:
        self._lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]

    def text(self) -> str:
        """All of it."""
        return "\n".join([*self._lines, ""])


def number(value: float) -> str:
    """Spell a value; whole ones without a fraction."""
    return str(int(value)) if value == int(value) else repr(value)


def _told(labels: Sequence[tuple[str, str]]) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(text)}"' for name, text in labels]) + "}"


def _escaped(text: str) -> str:
    if not any(char in text for char in _UNSAFE):
        return text
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
