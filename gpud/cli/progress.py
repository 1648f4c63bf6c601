"""How far a start or a pull is, and how that is shown where there is no terminal.

On a terminal `gpud.cli.live` shows it.
"""

from __future__ import annotations

import sys
from typing import NamedTuple, Protocol

from gpud.cli.output import size
from gpud.core.plain_text import plain


class Moment(NamedTuple):
    """How far a start or a pull is.

    Args:
        phase: `image`, `gpus`, `create`, `start` or `ready`.
        detail: For people.
        done: Bytes of a pull.
        total: Bytes of a pull; 0 outside of pulls.
    """

    phase: str
    detail: str
    done: float = 0
    total: float = 0


class Reporter(Protocol):
    """Shows moments to a person."""

    def show(self, moment: Moment) -> None:
        """Show the present moment."""

    def close(self) -> None:
        """Show no more."""


class Lines:
    """Writes each new phase as a line on stderr, for pipes and logs."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, moment: Moment) -> None:
        """Write the moment, unless the last line says the same."""
        told = f"{moment.phase}: {moment.detail}"
        if moment.total:
            told = f"{moment.phase}: pulling {size(moment.total)}, {_tenth(moment)} % done"
        if told != self._last:
            sys.stderr.write(f"{plain(told)}\n")
            sys.stderr.flush()
        self._last = told

    def close(self) -> None:
        """Nothing."""


class Silence:
    """Shows nothing."""

    def show(self, moment: Moment) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _tenth(moment: Moment) -> int:
    return min(100, int(10 * moment.done / moment.total) * 10)
