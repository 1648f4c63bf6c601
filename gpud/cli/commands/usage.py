"""`gpud usage`: who used how much GPU time, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.grammar import Command, Option
from gpud.cli.output import Column, money, number_at, rows_at, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_PAGE = 500


def _seconds(field: str) -> Callable[[Mapping[str, object]], str]:
    def cell(row: Mapping[str, object]) -> str:
        whole, ms = divmod(int(number_at(row, field)), 1000)
        return f"{whole:,}.{ms:03d}"

    return cell


def _name(row: Mapping[str, object]) -> str:
    label = text_at(row, "label")
    return f"{text_at(row, 'key')} {label}" if label else text_at(row, "key")


def _columns(by: str, currency: str) -> tuple[Column, ...]:
    return (
        Column(by.upper(), _name),
        Column("GPU SECONDS", _seconds("gpu_ms"), right=True),
        Column("SECONDS", _seconds("wall_ms"), right=True),
        Column("SESSIONS", lambda row: f"{number_at(row, 'sessions'):,g}", right=True),
        Column("BILLED S", lambda row: f"{number_at(row, 'billed_s'):,g}", right=True),
        Column(f"COST {currency}", lambda row: money(number_at(row, "cost_micros")), right=True),
        Column("IDLE S", _idle, right=True),
        Column("KWH", _kwh, right=True),
        Column(f"POWER {currency}", lambda row: money(number_at(row, "energy_cost_micros")), right=True),
    )


def _idle(row: Mapping[str, object]) -> str:
    """Of GPUs: leased without a request, and leased by nobody."""
    phases = value_at(row, "phases_ms")
    if not isinstance(phases, dict):
        return ""
    idle_ms = sum(int(phases.get(name, 0)) for name in ("idle", "unleased"))
    return f"{idle_ms // 1000:,}.{idle_ms % 1000:03d}"


def _kwh(row: Mapping[str, object]) -> str:
    energy_mj = number_at(row, "energy_mj")
    return f"{energy_mj / 3.6e9:,.4f}" if energy_mj else ""


def _usage(values: Values, context: Context) -> int:
    from gpud.cli.moments import moment  # noqa: PLC0415 - help does without

    if values.text("export"):
        return _export(values, context)
    if values.flag("jobs"):
        raise exits.BadUsage(
            "--jobs is for exports.",
            todo="Add --export csv or --export jsonl; `gpud job ls` shows the latest in a table.",
        )
    if values.text("compare"):
        from gpud.cli import own_or_rent  # noqa: PLC0415 - only a comparison needs it

        since, until = (moment(values.text(name), name) for name in ("since", "until"))
        return own_or_rent.show(context, values.text("compare"), since=since, until=until)
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
    if any(text_at(row, "key") == "(untimed)" for row in rows):
        context.note(
            "(untimed) is energy that cannot be told by the "
            f"{by}: GPUs are read every few seconds, and minutes are kept for two weeks."
        )
    if rows and not number_at(report, "gpu_hour_micros") and not number_at(rows[-1], "cost_micros"):
        context.note("The price of a GPU hour is 0: set prices.gpu_hour_micros in gpud.toml.")
    return exits.OK


_SEGMENT_FIELDS = (
    "worker_id",
    "seq",
    "phase",
    "billable",
    "endpoint",
    "revision",
    "gpu_uuids",
    "share_ppm",
    "start",
    "duration_ns",
    "boot_id",
    "start_boot_ns",
    "end_boot_ns",
    "close_reason",
    "estimated",
    "keys",
)
"""Columns of a CSV export, in this order for good: new ones come last."""
_JOB_FIELDS = (
    "id",
    "endpoint",
    "owner",
    "state",
    "reason",
    "worker",
    "created_at",
    "started_at",
    "finished_at",
    "queue_ms",
    "cold_start_ms",
    "exec_ms",
    "deliveries",
    "redrives",
    "gpu_ns",
    "gpu_ms",
    "cost_micros",
    "energy_mj",
    "energy_cost_micros",
)
"""The same of jobs."""


def _export(values: Values, context: Context) -> int:
    from gpud.cli.moments import moment  # noqa: PLC0415 - help does without

    query: dict[str, object] = {
        "endpoint": values.text("endpoint"),
        "since": moment(values.text("since"), "since"),
        "until": moment(values.text("until"), "until"),
        "limit": _PAGE,
    }
    jobs = values.flag("jobs")
    path, fields = ("/v1/usage/jobs", _JOB_FIELDS) if jobs else ("/v1/usage/segments", _SEGMENT_FIELDS)
    as_csv = values.text("export") == "csv"
    if as_csv:
        context.print_text(",".join(fields))
    cursor = ""
    while True:
        page = context.client.get(path, {**query, "cursor": cursor})
        for row in rows_at(page, "items"):
            context.print_text(_csv_line(row, fields) if as_csv else _json_line(row))
        cursor = text_at(page, "next")
        if not cursor:
            return exits.OK


def _json_line(row: Mapping[str, object]) -> str:
    import json  # noqa: PLC0415 - the client has it already

    return json.dumps(row, ensure_ascii=False)


def _csv_line(row: Mapping[str, object], fields: Sequence[str]) -> str:
    import csv  # noqa: PLC0415 - only exports need it
    import io  # noqa: PLC0415

    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([_csv_cell(value_at(row, name)) for name in fields])
    return line.getvalue()


def _csv_cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case dict():
            return " ".join(f"{name}={part}" for name, part in value.items())
        case list():
            return " ".join(map(str, value))
        case _:
            return str(value)


COMMANDS = (
    Command(
        ("usage",),
        "Report GPU time and what it costs.",
        _usage,
        options=(
            Option(
                "by",
                "One line for each.",
                choices=("endpoint", "worker", "key", "gpu", "phase", "day", "hour", "minute", "second"),
                default="endpoint",
            ),
            Option("endpoint", "Only this endpoint's.", kind=grammar.ENDPOINT, metavar="NAME"),
            Option("since", "From: 24h, 30d, a date or a time.", metavar="WHEN", default="the beginning"),
            Option("until", "To: the same spellings.", metavar="WHEN", default="now"),
            Option("export", "Print every closed segment instead, one on a line.", choices=("csv", "jsonl")),
            Option("jobs", "With --export: every job that is over and ran.", kind=grammar.FLAG),
            Option("compare", "Set it against a price list: owned, and rented.", metavar="FILE"),
        ),
        details=(
            "Time runs while a worker holds its GPUs and serves, can serve or starts to; pulls, set-up and "
            "stopping are not billed. SECONDS counts a worker once, GPU SECONDS once for each of its GPUs. "
            "BILLED S rounds each session of a worker up to a whole second. Running workers count up to "
            "now; days, hours, minutes and seconds are UTC. By phase, idle time has a line of its own, and "
            "so has what is not billed; a session has several phases and counts in none.\n\n"
            "By key, a moment in which several requests run belongs to their keys in equal parts. Time in "
            "which none runs has lines of its own, such as (idle) and (starting); (public) is of endpoints "
            "that ask for no key, and local of callers at the Unix socket.\n\n"
            "--export prints what the sums are made of: worker and number name a segment for good, and a "
            "closed one never changes, so what comes twice can be dropped. --since and --until go by its "
            "end.\n\n"
            "With --jobs it prints what jobs used, one on a line, with endpoint, key, state, waiting, cold "
            "start and run, GPU time, cost and energy: also of jobs whose inputs and results are deleted. A "
            "job that was tried again by hand comes again, with all that it used; the later line counts.\n\n"
            "--compare tells for each model of GPU what the period cost owned (the purchase written off, and "
            "power) and would cost rented; OWN FROM is the share of time in use from which owning costs less "
            "than renting by use. config/own-or-rent.toml is an example of a price list."
        ),
        examples=(
            "gpud usage --by day --since 30d",
            "gpud usage --by worker --endpoint llm --since 24h",
            "gpud usage --export csv --since 30d",
            "gpud usage --export csv --jobs --since 30d",
            "gpud usage --compare own-or-rent.toml --since 30d",
        ),
    ),
)
