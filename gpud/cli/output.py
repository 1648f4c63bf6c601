"""Writes what people read: tables, ages, sizes and failures.

Listings are laid out here and not by rich, whose import alone takes 40 ms of the 80 a listing may
take; progress displays, which live longer, use rich.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.cli.exits import CommandFailed

_RESET = "\033[0m"
_STYLES = {
    "dim": "\033[2m",
    "bold": "\033[1m",
    "red": "\033[31m",
    "green": "\033[32m",
    "yellow": "\033[33m",
    "blue": "\033[34m",
}
_STATE_STYLES = {
    "ready": "green",
    "healthy": "green",
    "active": "green",
    "within": "green",
    "starting": "blue",
    "pulling": "blue",
    "pending": "blue",
    "reserved": "blue",
    "creating": "blue",
    "waiting_for_gpu": "yellow",
    "not_ready": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "releasing": "yellow",
    "quarantined": "yellow",
    "cordoned": "yellow",
    "warned": "yellow",
    "failing": "red",
    "failed": "red",
    "lost": "red",
    "unhealthy": "red",
    "spent": "red",
    "disabled": "dim",
    "sleeping": "dim",
    "paused": "dim",
    "gone": "dim",
}
_GAP = "  "


class Column(NamedTuple):
    """A column of a listing.

    Args:
        title: In capitals.
        cell: Makes the text of a cell from a row of the API.
        right: Aligned to the right, for numbers.
        shrink: May be cut when the terminal is too narrow.
        state: Its texts are states, coloured on a terminal.
    """

    title: str
    cell: Callable[[Mapping[str, object]], str]
    right: bool = False
    shrink: bool = False
    state: bool = False


def table(
    columns: tuple[Column, ...], rows: list[dict[str, object]], *, width: int = 0, colour: bool = False
) -> str:
    """Lay rows out under their titles.

    Args:
        columns: From left to right.
        rows: As the API gave them.
        width: Of the terminal; 0 for no bound.
        colour: Use terminal colours.
    """
    cells = [[_cell(column.cell(row)) or "-" for column in columns] for row in rows]
    widths = [max([len(column.title), *(len(row[i]) for row in cells)]) for i, column in enumerate(columns)]
    if width:
        _fit(columns, widths, width)
    head = _line([column.title for column in columns], columns, widths)
    lines = [styled(head, "dim", colour=colour)]
    for row in cells:
        styles = [
            _STATE_STYLES.get(text.replace(" ", "_"), "") if c.state else ""
            for c, text in zip(columns, row, strict=True)
        ]
        lines.append(_line(row, columns, widths, styles if colour else None))
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A text as it will be shown, so that it is measured as that."""
    if text.isprintable():
        return text
    from gpud.core.plain_text import plain  # noqa: PLC0415 - most cells need none of it

    return plain(text.replace("\n", " "))


def _fit(columns: tuple[Column, ...], widths: list[int], width: int) -> None:
    """Narrow the shrinkable columns, the widest first, until the line fits."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    shrinkable = [i for i, column in enumerate(columns) if column.shrink]
    while excess > 0 and shrinkable:
        widest = max(shrinkable, key=lambda i: widths[i])
        if widths[widest] <= max(8, len(columns[widest].title)):
            return
        widths[widest] -= 1
        excess -= 1


def _line(
    texts: list[str], columns: tuple[Column, ...], widths: list[int], styles: list[str] | None = None
) -> str:
    parts = []
    for i, (text, column) in enumerate(zip(texts, columns, strict=True)):
        cut = cut_to(text, widths[i])
        padded = cut.rjust(widths[i]) if column.right else cut.ljust(widths[i])
        parts.append(styled(padded, styles[i], colour=True) if styles and styles[i] else padded)
    return _GAP.join(parts).rstrip()


def cut_to(text: str, width: int) -> str:
    """Shorten a text to a width, in its middle: references differ at both ends."""
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def styled(text: str, style: str, *, colour: bool) -> str:
    """Colour a text, or leave it."""
    return f"{_STYLES[style]}{text}{_RESET}" if colour and style else text


def facts(pairs: list[tuple[str, str]], *, colour: bool = False) -> str:
    """Lay out names and values of one thing; empty values are left out."""
    shown = [(name, text) for name, text in pairs if text]
    longest = max((len(name) for name, _ in shown), default=0)
    lines = []
    for name, text in shown:
        first, *more = text.split("\n")
        lines.append(f"{styled(name.ljust(longest), 'dim', colour=colour)}  {first}")
        lines += [f"{'':<{longest}}  {line}" for line in more]
    return "\n".join(lines)


def state_text(state: str, *, colour: bool = False) -> str:
    """A state for people: `waiting_for_gpu` reads `waiting for gpu`."""
    return styled(state.replace("_", " "), _STATE_STYLES.get(state, ""), colour=colour)


def text_at(row: Mapping[str, object], *path: str) -> str:
    """A text at a path of a document; empty when there is none."""
    value = value_at(row, *path)
    return "" if value is None else str(value)


def number_at(row: Mapping[str, object], *path: str) -> float:
    """A number at a path of a document; 0 when there is none."""
    value = value_at(row, *path)
    return value if isinstance(value, (int, float)) else 0


def value_at(row: Mapping[str, object], *path: str) -> object:
    """Whatever is at a path of a document; None when there is nothing."""
    value: object = row
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def rows_at(row: Mapping[str, object], *path: str) -> list[dict[str, object]]:
    """The objects of a list at a path of a document."""
    value = value_at(row, *path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def age(moment: str, *, now_s: float | None = None) -> str:
    """How long ago an RFC 3339 moment was: `3m`, `2h`, `5d`; empty for no moment."""
    if not moment:
        return ""
    from datetime import datetime  # noqa: PLC0415 - only where ages are shown

    then_s = datetime.fromisoformat(moment).timestamp()
    return span(max(0.0, (time.time() if now_s is None else now_s) - then_s))


def span(seconds: float) -> str:
    """A length of time in its largest unit, rounded down: `45s`, `3m`, `2h`, `5d`."""
    whole = int(seconds)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if whole >= size * (2 if unit == "d" else 1):
            return f"{whole // size}{unit}"
    return f"{whole}s"


def size(count_bytes: float) -> str:
    """Bytes with a binary unit: `24.0 GiB`."""
    amount = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit in ("B", "KiB") else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def mib(count: float) -> str:
    """MiB with the unit that reads best; empty for 0."""
    return size(count * 1024 * 1024) if count else ""


def failure_text(failure: CommandFailed, *, colour: bool = False) -> str:
    """A failure for stderr: what and why, each field's fault on a line, then what to do."""
    lines = [f"{styled('gpud:', 'red', colour=colour)} {failure.what}"]
    longest = max((len(name) for name in failure.fields), default=0)
    lines += [f"  {name:<{longest}}  {why}" for name, why in failure.fields.items()]
    if failure.todo:
        lines.append(f"  {failure.todo}")
    told = "\n".join(lines) + "\n"
    if not told.replace("\n", "").isprintable():
        from gpud.cli.screen import harmless  # noqa: PLC0415 - most failures need none of it

        told = harmless(told)
    return told


def money(micros: float) -> str:
    """Millionths as an exact amount."""
    whole, rest = divmod(int(micros), 1_000_000)
    return f"{whole:,}.{rest:06d}"
