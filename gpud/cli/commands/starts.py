"""`gpud endpoint starts`: where the time of an endpoint's cold starts went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, age, number_at, rows_at, span, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_LAST = 20
_LAST_MAX = 500
_PHASES = ("wait", "evict", "pull", "reserve", "create", "engine_start", "listen", "ready")


def _starts(values: Values, context: Context) -> int:
    limit = min(max(int(values.number("last", _LAST)), 1), _LAST_MAX)
    path = path_of("v1", "endpoints", values.text("name"), "starts")
    page = context.client.get(path, {"limit": limit})
    starts = rows_at(page, "items")
    context.print_table(_COLUMNS, starts, empty="No worker of it has started yet.")
    slow = value_at(starts[0], "slower") if starts else None
    if isinstance(slow, dict) and not context.as_json:
        context.print_text(f"The last start: {text_at(slow, 'detail')}")
    return exits.OK


def start_text(start: Mapping[str, object]) -> str:
    """The last start in two or three lines: how long, where it went, and what was slow."""
    total = f"{_taken(start, 'total_ms')}, {age(text_at(start, 'ready_at'))} ago"
    if value_at(start, "usual_ms") is not None:
        total += f"; usually {_taken(start, 'usual_ms')}"
    parts = [f"{phase.replace('_', ' ')} {_taken(start, f'{phase}_ms')}" for phase in _told_phases(start)]
    lines = [total, ", ".join(parts)]
    if text_at(start, "wanted"):
        lines.append(f"Woken by: {text_at(start, 'wanted')}")
    slow = value_at(start, "slower")
    if isinstance(slow, dict):
        lines.append(text_at(slow, "detail"))
    return "\n".join(lines)


def _told_phases(start: Mapping[str, object]) -> list[str]:
    return [phase for phase in (*_PHASES, "first_byte") if number_at(start, f"{phase}_ms") > 0]


def _taken(start: Mapping[str, object], name: str) -> str:
    took_ms = number_at(start, name)
    return f"{took_ms:.0f} ms" if took_ms < 1000 else span(took_ms / 1000)


def _cell(phase: str) -> Column:
    def shown(start: Mapping[str, object]) -> str:
        return _taken(start, f"{phase}_ms") if number_at(start, f"{phase}_ms") > 0 else ""

    return Column(phase.replace("_", " ").upper(), shown, right=True)


_COLUMNS = (
    Column("WORKER", lambda start: text_at(start, "worker_id")),
    Column("AGE", lambda start: age(text_at(start, "ready_at")), right=True),
    Column("TOTAL", lambda start: _taken(start, "total_ms"), right=True),
    *(_cell(phase) for phase in _PHASES),
    Column("FIRST BYTE", lambda start: _taken(start, "first_byte_ms") if start.get("first_byte_ms") else ""),
    Column("SLOWER", lambda start: text_at(start, "slower", "culprit") if start.get("slower") else ""),
    Column("WOKEN BY", lambda start: text_at(start, "wanted")),
)

COMMANDS = (
    Command(
        ("endpoint", "starts"),
        "Show where the time of an endpoint's cold starts went, and what made one slow.",
        _starts,
        (Argument("name", "Name of the endpoint.", kind=grammar.ENDPOINT),),
        (Option("last", "How many starts, newest first.", kind=grammar.WHOLE, short="n", default="20"),),
        examples=("gpud endpoint starts llm", "gpud endpoint starts llm --last 5 --json"),
    ),
)
