"""`gpud budget`: what endpoints and keys may use, and what they used of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.grammar import Command
from gpud.cli.output import Column, money, number_at, rows_at, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _amount(name: str, currency: str) -> Callable[[Mapping[str, object]], str]:
    def cell(row: Mapping[str, object]) -> str:
        if value_at(row, "amount_micros") is not None:
            return f"{money(number_at(row, f'{name}_micros'))} {currency}"
        return f"{number_at(row, f'{name}_gpu_ms') / 1000:,.0f} GPU s"

    return cell


def _whose(row: Mapping[str, object]) -> str:
    if text_at(row, "endpoint"):
        return f"endpoint {text_at(row, 'endpoint')}"
    return " ".join(word for word in ("key", text_at(row, "key"), text_at(row, "label")) if word)


def _columns(currency: str) -> tuple[Column, ...]:
    return (
        Column("BUDGET OF", _whose),
        Column("PER", lambda row: text_at(row, "per")),
        Column("STATE", lambda row: text_at(row, "state"), state=True),
        Column("USED", _amount("used", currency), right=True),
        Column("AMOUNT", _amount("amount", currency), right=True),
        Column("USED %", lambda row: f"{number_at(row, 'used_percent'):,.4g}", right=True),
        Column("UNTIL", lambda row: text_at(row, "until")[:16].replace("T", " ")),
    )


def _ls(_values: Values, context: Context) -> int:
    found = context.client.get("/v1/budgets")
    if context.as_json:
        context.print_json(found)
        return exits.OK
    rows = rows_at(found, "items")
    empty = "No budgets. They are set in [[budgets.limits]] of gpud.toml."
    context.print_table(_columns(text_at(found, "currency")), rows, empty=empty)
    for row in rows:
        if text_at(row, "detail"):
            context.note(f"{text_at(row, 'detail')} {text_at(row, 'refuses')}")
    return exits.OK


COMMANDS = (
    Command(
        ("budget", "ls"),
        "List budgets: what was used of each, and what a spent one refuses.",
        _ls,
        details="Budgets are set in [[budgets.limits]] of gpud.toml. `warned` is one of which a threshold "
        "was passed, `spent` one of which nothing is left. Times are UTC.",
    ),
)
