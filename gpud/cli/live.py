"""Shows a start on a terminal: a line for each phase, and a bar for the pull."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from gpud.cli.output import size
from gpud.core.plain_text import plain

if TYPE_CHECKING:
    from rich.progress_bar import ProgressBar

    from gpud.cli.progress import Moment


class _PullBar(BarColumn):
    """A bar only where there is a size."""

    def render(self, task: Task) -> ProgressBar | Text:  # type: ignore[override]
        return super().render(task) if task.total and not task.finished else Text("")


class LiveReporter:
    """Draws on stderr, redrawn in place.

    Args:
        transient: Wipe the display at the end.
    """

    def __init__(self, *, transient: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<7}"),
            _PullBar(bar_width=28),
            TextColumn("{task.fields[detail]}", markup=False),
            TextColumn("[dim]{task.fields[took]}[/]"),
            console=Console(stderr=True, highlight=False),
            transient=transient,
        )
        self._progress.start()
        self._phase = ""
        self._task: TaskID | None = None
        self._total_bytes = 0.0

    def show(self, moment: Moment) -> None:
        """Show the present moment."""
        if moment.phase != self._phase:
            self._finish()
            self._phase = moment.phase
            self._task = self._progress.add_task(moment.phase, total=None, detail="", took="")
        if self._task is None:
            return
        detail = plain(moment.detail)
        if moment.total:
            self._total_bytes = moment.total
            detail = f"{size(moment.done)} of {size(moment.total)}, {detail}"
        self._progress.update(
            self._task, detail=detail, took=self._took(), total=moment.total or None, completed=moment.done
        )

    def close(self) -> None:
        """Draw the last state and give the terminal back."""
        if self._phase == "ready":
            self._finish()
        self._progress.stop()

    def _took(self) -> str:
        task = next((task for task in self._progress.tasks if task.id == self._task), None)
        return f"{task.elapsed or 0:.1f} s" if task else ""

    def _finish(self) -> None:
        if self._task is None:
            return
        took = "" if self._phase == "ready" else self._took()
        detail = "" if self._phase == "ready" else "done"
        if self._phase == "image" and self._total_bytes:
            detail = size(self._total_bytes)
        self._progress.update(self._task, total=1, completed=1, detail=detail, took=took)
