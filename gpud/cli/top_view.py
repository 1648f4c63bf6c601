"""Draws `gpud top`: lines of text that fit the terminal, whatever its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from rich.text import Text

from gpud.cli.output import cut_to, size, span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpud.cli.top_model import EndpointRow, GpuRow, Top, WorkerRow

_Any = TypeVar("_Any")

SECTIONS = ("all", "endpoints", "workers", "gpus")
KEYS = "q quit  1-4 section  n name  l load  m memory  a age  o order  ↑↓ scroll  space pause"
_SHORT_KEYS = "q quit 1-4 section n,l,m,a sort o order ↑↓ scroll space pause"
_GAP = 2
_WIDE = 118
"""From this width on the reason of a wait stands beside its endpoint, not below."""
_BAR = 8
_STYLES = {
    "ready": "green",
    "healthy": "green",
    "failing": "bold red",
    "failed": "bold red",
    "lost": "bold red",
    "unhealthy": "bold red",
    "waiting_for_gpu": "yellow",
    "not_ready": "yellow",
    "quarantined": "yellow",
    "cordoned": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "starting": "blue",
    "pulling": "blue",
    "creating": "blue",
    "pending": "blue",
    "reserved": "blue",
    "sleeping": "dim",
    "paused": "dim",
    "standby": "dim",
}


class Frame(NamedTuple):
    """How it is shown.

    Args:
        width: Columns.
        height: Lines; 0 for as many as it takes.
        section: One of SECTIONS.
        scroll: Rows left out above, in the section that is shown alone, or else among workers.
        order: Its name, for the title line.
        note: What is amiss with the connection; empty when nothing is.
        keys: Whether keys can be pressed.
        lost: The daemon does not answer any more.
    """

    width: int
    height: int = 0
    section: str = "all"
    scroll: int = 0
    order: str = "name"
    note: str = ""
    keys: bool = False
    lost: bool = False


class _Cell(NamedTuple):
    """A column: its title, its text, and how it is laid out."""

    title: str
    texts: list[str]
    right: bool = False
    least: int = 0
    styles: list[str] | None = None
    flexible: bool = False


def draw(top: Top, frame: Frame) -> list[Text]:
    """Draw a frame; never more lines than it has, none wider than it is."""
    head = _head(top, frame)
    foot = [Text(_keys(frame), style="dim")] if frame.keys else []
    room = frame.height - len(head) - len(foot) if frame.height else 0
    body = _body(top, frame, room)
    if frame.height:
        body = body[: max(room, 0)]
        body += [Text("")] * (room - len(body)) if foot else []
    lines = [*head, *body, *foot]
    for line in lines:
        line.truncate(frame.width, overflow="ellipsis")
    return lines[: frame.height] if frame.height else lines


def _keys(frame: Frame) -> str:
    return KEYS if len(KEYS) <= frame.width else _SHORT_KEYS


def _head(top: Top, frame: Frame) -> list[Text]:
    line = Text()
    line.append(f"gpud {top.version}", style="bold")
    line.append("  ")
    if frame.lost:
        line.append("no answer", style="bold red")
    else:
        line.append("ready" if top.ready else "not ready", style="green" if top.ready else "bold red")
    rate = "" if top.rate is None else f"  {_rate(top.rate)} requests/s"
    line.append(f"{rate}  {top.running} running  ")
    line.append(f"{top.waiting} waiting", style="yellow" if top.waiting else "")
    if frame.keys:
        line.append(f"  by {frame.order}", style="dim")
    lines = [line]
    if frame.note:
        lines.append(Text(frame.note, style="bold red"))
    lines += [Text(fault, style="red") for fault in top.faults]
    return lines


def _body(top: Top, frame: Frame, room: int) -> list[Text]:
    wide = frame.width >= _WIDE
    sections: list[tuple[str, Callable[[int], list[Text]], int]] = [
        ("gpus", lambda n: _gpus(top.gpus, frame, n), len(top.gpus)),
        (
            "endpoints",
            lambda n: _endpoints(top.endpoints, frame, n, wide=wide),
            _needs(top.endpoints, wide=wide),
        ),
        ("workers", lambda n: _workers(top.workers, frame, n), len(top.workers)),
    ]
    chosen = [one for one in sections if frame.section in ("all", one[0])]
    shares = _shares([needs for _name, _draw, needs in chosen], room - 2 * len(chosen)) if room else []
    lines: list[Text] = []
    for i, (_name, make, needs) in enumerate(chosen):
        lines += [Text(""), *make(shares[i] if room else needs)]
    return lines


def _shares(needs: Sequence[int], room: int) -> list[int]:
    """Divide lines: everybody gets the same, and what one does not need the others get."""
    shares = [0] * len(needs)
    left = max(room, 0)
    while left:
        hungry = [i for i, need in enumerate(needs) if shares[i] < max(need, 1)]
        if not hungry:
            break
        for i in hungry[:left]:
            shares[i] += 1
        left -= min(left, len(hungry))
    return shares


def _needs(rows: Sequence[EndpointRow], *, wide: bool) -> int:
    return sum(1 if wide or not row.why else 2 for row in rows)


def _gpus(rows: Sequence[GpuRow], frame: Frame, room: int) -> list[Text]:
    shown, more = _window(rows, frame, room, own=frame.section == "gpus")
    if not rows:
        return _nothing("GPUS", "no GPUs")
    cells = [
        _Cell("#", [str(row.number) for row in shown], right=True),
        _Cell("GPU", [_short_name(row.name) for row in shown], least=8, flexible=True),
        _Cell("MEMORY", [_memory(row) for row in shown]),
        _Cell("UTIL", [_told(row.percent, "%") for row in shown], right=True),
        _Cell("POWER", [_told(row.power_w, " W") for row in shown], right=True),
        _Cell("TEMP", [_told(row.celsius, "°") for row in shown], right=True),
        _Cell("HEALTH", [row.health for row in shown], styles=[_STYLES.get(row.health, "") for row in shown]),
        _Cell("HELD BY", [row.holders or row.reason or "-" for row in shown], least=10, flexible=True),
    ]
    return [*_table(cells, frame.width), *more]


def _endpoints(rows: Sequence[EndpointRow], frame: Frame, room: int, *, wide: bool) -> list[Text]:
    if not rows:
        return _nothing("ENDPOINTS", "no endpoints; gpud deploy makes one")
    fits = list(rows)
    if frame.height:
        fits = _that_fit(rows[frame.scroll if frame.section == "endpoints" else 0 :], room, wide=wide)
    cells = [
        _Cell("ENDPOINT", [row.name for row in fits], least=10, flexible=True),
        _Cell(
            "STATE",
            [row.condition.replace("_", " ") for row in fits],
            styles=[_STYLES.get(row.condition, "") for row in fits],
        ),
        _Cell("WORKERS", [f"{row.ready}/{row.desired} of {row.most}" for row in fits], right=True),
        _Cell("REQ/S", ["-" if row.rate is None else _rate(row.rate) for row in fits], right=True),
        _Cell("RUNNING", [str(row.running) for row in fits], right=True),
        _Cell("WAITING", [str(row.waiting) for row in fits], right=True),
        _Cell("OLDEST", [span(row.oldest_s) if row.waiting else "-" for row in fits], right=True),
    ]
    if wide:
        cells.append(_Cell("WHY", [row.why or "-" for row in fits], least=20, flexible=True))
    title, *lines = _table(cells, frame.width)
    told = [title]
    for row, line in zip(fits, lines, strict=True):
        told.append(line)
        if row.why and not wide:
            told.append(Text(f"  └ {row.why}", style="yellow"))
    hidden = len(rows) - len(fits)
    return [*told, *([Text(f"  {hidden} more", style="dim")] if hidden else [])]


def _that_fit(rows: Sequence[EndpointRow], room: int, *, wide: bool) -> list[EndpointRow]:
    fits: list[EndpointRow] = []
    for i, row in enumerate(rows):
        left = room - _needs(fits, wide=wide) - _needs([row], wide=wide)
        if left < 0 or (left == 0 and i + 1 < len(rows)):
            break
        fits.append(row)
    return fits


def _workers(rows: Sequence[WorkerRow], frame: Frame, room: int) -> list[Text]:
    own = frame.section in ("all", "workers")
    shown, more = _window(rows, frame, room, own=own)
    if not rows:
        return _nothing("WORKERS", "no workers; they start when requests come")
    cells = [
        _Cell("WORKER", [row.id for row in shown]),
        _Cell("ENDPOINT", [row.endpoint for row in shown], least=10, flexible=True),
        _Cell(
            "STATE",
            [row.state.replace("_", " ") for row in shown],
            styles=[_STYLES.get(row.state, "") for row in shown],
        ),
        _Cell("GPU", [row.gpus or "-" for row in shown]),
        _Cell("CPU", [f"{row.cpu_cores:.1f}" for row in shown], right=True),
        _Cell("MEM", [_bytes(row.memory_bytes) for row in shown], right=True),
        _Cell("GPU MEM", [_bytes(row.gpu_memory_bytes) for row in shown], right=True),
        _Cell("AGE", [row.age for row in shown], right=True),
    ]
    if frame.width >= _WIDE:
        cells.append(_Cell("WHY", [row.why or "-" for row in shown], least=16, flexible=True))
    return [*_table(cells, frame.width), *more]


def _nothing(title: str, told: str) -> list[Text]:
    return [Text(title, style="bold dim"), Text(f"  {told}", style="dim")]


def _window(rows: Sequence[_Any], frame: Frame, room: int, *, own: bool) -> tuple[Sequence[_Any], list[Text]]:
    """The rows that fit, and a line that says how many do not."""
    if not frame.height or len(rows) <= room:
        return rows, []
    start = min(frame.scroll if own else 0, max(len(rows) - room + 1, 0))
    shown = rows[start : start + max(room - 1, 0)]
    hidden = len(rows) - len(shown)
    return shown, [Text(f"  {hidden} more", style="dim")]


def _table(cells: list[_Cell], width: int) -> list[Text]:
    widths = [max([len(cell.title), *map(len, cell.texts)]) for cell in cells]
    excess = sum(widths) + _GAP * (len(cells) - 1) - width
    while excess > 0:
        able = [i for i, cell in enumerate(cells) if cell.flexible and widths[i] > cell.least]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
        excess -= 1
    lines = [_row([cell.title for cell in cells], cells, widths, ["bold dim"] * len(cells))]
    for i in range(len(cells[0].texts)):
        styles = [cell.styles[i] if cell.styles else "" for cell in cells]
        lines.append(_row([cell.texts[i] for cell in cells], cells, widths, styles))
    return lines


def _row(texts: list[str], cells: list[_Cell], widths: list[int], styles: list[str]) -> Text:
    line = Text()
    for text, cell, width, style in zip(texts, cells, widths, styles, strict=True):
        cut = cut_to(text, width)
        line.append(cut.rjust(width) if cell.right else cut.ljust(width), style=style)
        line.append(" " * _GAP)
    line.rstrip()
    return line


def _memory(row: GpuRow) -> str:
    if row.used_mib is None or not row.total_mib:
        return f"{row.total_mib / 1024:.0f} GiB"
    full = round(_BAR * min(row.used_mib / row.total_mib, 1.0))
    return f"{'█' * full}{'░' * (_BAR - full)} {row.used_mib / 1024:.1f}/{row.total_mib / 1024:.0f} GiB"


def _short_name(name: str) -> str:
    return name.removeprefix("NVIDIA ")


def _told(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f}{unit}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _bytes(count: float) -> str:
    return size(count).replace(" GiB", "G").replace(" MiB", "M").replace(" KiB", "K") if count else "-"
