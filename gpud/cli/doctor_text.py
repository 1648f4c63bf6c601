"""Shows what the doctor found, for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpud.core.doctor.findings import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARKS = {
    Verdict.OK: ("ok", "green"),
    Verdict.WARNING: ("warning", "yellow"),
    Verdict.FAILED: ("FAILED", "bold red"),
    Verdict.SKIPPED: ("skipped", "dim"),
}
_TITLES = {"gpud": "gpud", "docker": "Docker", "gpus": "GPUs", "box": "This box"}
_PLAIN_WIDTH = 100
_WIDTH_MAX = 120


def print_areas(
    areas: tuple[tuple[str, tuple[Finding, ...]], ...],
    totals: Mapping[str, int],
    *,
    all_of_them: bool,
) -> None:
    """Print the findings by area, and how many there are of each kind.

    Args:
        areas: As the examination gave them.
        totals: By verdict.
        all_of_them: Also those that say that all is well.
    """
    tty = sys.stdout.isatty()
    width = min(Console().width, _WIDTH_MAX) if tty else _PLAIN_WIDTH
    console = Console(highlight=False, emoji=False, markup=False, width=width)
    longest = max(len(finding.check) for _area, findings in areas for finding in findings)
    for area, findings in areas:
        shown = [f for f in findings if all_of_them or f.verdict in (Verdict.WARNING, Verdict.FAILED)]
        if not shown:
            continue
        console.print(Text(_TITLES[area], style="bold"))
        with console.capture() as captured:
            console.print(_table(shown, longest))
        for line in captured.get().splitlines():  # rich fills lines up with spaces
            sys.stdout.write(f"{line.rstrip()}\n")
        sys.stdout.write("\n")
        sys.stdout.flush()
    console.print(_summary(totals))


def _table(findings: list[Finding], longest: int) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=9, no_wrap=True)
    table.add_column(width=longest, no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for finding in findings:
        word, style = _MARKS[finding.verdict]
        told = Text(finding.found, style="dim" if finding.verdict is Verdict.SKIPPED else "")
        if finding.why:
            told.append(f"\n{finding.why}", style="dim")
        if finding.todo:
            told.append("\n→ ", style="bold")
            told.append(finding.todo)
        table.add_row(Text(f"  {word}", style=style), Text(finding.check), told)
    return table


def _summary(totals: Mapping[str, int]) -> Text:
    told = [f"{totals['ok']} ok"]
    if totals["warning"]:
        told.append(f"{totals['warning']} {'warning' if totals['warning'] == 1 else 'warnings'}")
    if totals["failed"]:
        told.append(f"{totals['failed']} failed")
    if totals["skipped"]:
        told.append(f"{totals['skipped']} skipped")
    style = "bold red" if totals["failed"] else "yellow" if totals["warning"] else "green"
    return Text(", ".join(told), style=style)
