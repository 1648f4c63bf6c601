"""`gpud usage`: who used how much GPU time, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.grammar import Command, Option
from gpud.cli.output import Column, number_at, rows_at, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _seconds(field: str) -> Callable[[Mapping[str, object]], str]:
    def cell(row: Mapping[str, object]) -> str:
        whole, ms = divmod(int(number_at(row, field)), 1000)
        return f"{whole:,}.{ms:03d}"

    return cell


def money(micros: float) -> str:
    """Millionths as an exact amount."""
    whole, rest = divmod(int(micros), 1_000_000)
    return f"{whole:,}.{rest:06d}"


def _columns(by: str, currency: str) -> tuple[Column, ...]:
    return (
        Column(by.upper(), lambda row: text_at(row, "key")),
        Column("GPU SECONDS", _seconds("gpu_ms"), right=True),
        Column("SECONDS", _seconds("wall_ms"), right=True),
        Column("SESSIONS", lambda row: f"{number_at(row, 'sessions'):,g}", right=True),
        Column("BILLED S", lambda row: f"{number_at(row, 'billed_s'):,g}", right=True),
        Column(f"COST {currency}", lambda row: money(number_at(row, "cost_micros")), right=True),
    )


def _usage(values: Values, context: Context) -> int:
    from gpud.cli.moments import moment  # noqa: PLC0415 - help does without

    by = values.text("by", "endpoint")
    report = context.client.get(
        "/v1/usage",
        {
            "by": by,
            "endpoint": values.text("endpoint"),
            "since": moment(values.text("since"), "since"),
            "until": moment(values.text("until"), "until"),
        },
    )
    if context.as_json:
        context.print_json(report)
        return exits.OK
    rows = rows_at(report, "items")
    total = value_at(report, "total")
    if len(rows) > 1 and isinstance(total, dict):
        rows = [*rows, {**total, "key": "total"}]
    context.print_table(_columns(by, text_at(report, "currency")), rows, empty="No GPU time was used.")
    if rows and not number_at(report, "gpu_hour_micros"):
        context.note("The price of a GPU hour is 0: set prices.gpu_hour_micros in gpud.toml.")
    return exits.OK


COMMANDS = (
    Command(
        ("usage",),
        "Report GPU time and what it costs.",
        _usage,
        options=(
            Option(
                "by",
                "One line for each.",
                choices=("endpoint", "worker", "gpu", "day", "hour"),
                default="endpoint",
            ),
            Option("endpoint", "Only this endpoint's.", kind=grammar.ENDPOINT, metavar="NAME"),
            Option("since", "From: 24h, 30d, a date or a time.", metavar="WHEN", default="the beginning"),
            Option("until", "To: the same spellings.", metavar="WHEN", default="now"),
        ),
        details=(
            "Time runs while a worker holds its GPUs and serves, can serve or starts to; pulls, set-up and "
            "stopping are not billed. SECONDS counts a worker once, GPU SECONDS once for each of its GPUs. "
            "BILLED S rounds each session of a worker up to a whole second. Running workers count up to "
            "now; days and hours are UTC."
        ),
        examples=("gpud usage --by day --since 30d", "gpud usage --by worker --endpoint llm --since 24h"),
    ),
)
