"""`gpud simulate`: what other settings would have done with the requests that came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.exits import CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, number_at, span, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_NAME = Argument("name", "Name of the endpoint.", kind=grammar.ENDPOINT)

_POLICIES = ("concurrency", "queue_delay", "request_count", "fixed")

_CHANGES = (
    Option(
        "min-workers", "Workers kept running without load.", kind=grammar.WHOLE, field="scale.min_workers"
    ),
    Option("max-workers", "Most workers.", kind=grammar.WHOLE, field="scale.max_workers"),
    Option(
        "idle-timeout",
        "How long without load until workers stop.",
        kind=grammar.DURATION,
        field="scale.idle_timeout_s",
    ),
    Option("policy", "What decides the number of workers.", choices=_POLICIES, field="scale.policy"),
    Option(
        "concurrency", "Requests one worker takes at a time.", kind=grammar.WHOLE, field="scale.concurrency"
    ),
    Option("target", "Requests per worker to aim for.", kind=grammar.NUMBER, field="scale.target"),
    Option(
        "queue-delay",
        "Wait that queue_delay holds for fine.",
        kind=grammar.DURATION,
        field="scale.queue_delay_s",
    ),
    Option("beta", "Share of a cold start that may pass as wait.", kind=grammar.NUMBER, field="scale.beta"),
    Option(
        "scale-down-delay",
        "How long a smaller wish must last.",
        kind=grammar.DURATION,
        field="scale.scale_down_delay_s",
    ),
    Option(
        "warm-window",
        "Keep workers by the clock, such as '0 8 * * MON-FRI for 10h in Europe/Berlin x2'.",
        metavar="WINDOW",
        repeat=True,
        field="scale.warm_windows",
    ),
)


def _ms(field: str) -> Callable[[Mapping[str, object]], str]:
    return lambda row: span(number_at(row, field) / 1000)


def _count(field: str) -> Callable[[Mapping[str, object]], str]:
    return lambda row: f"{number_at(row, field):,g}"


def _columns(currency: str) -> tuple[Column, ...]:
    return (
        Column("", lambda row: text_at(row, "what")),
        Column("REQUESTS", _count("requests"), right=True),
        Column("UNSERVED", _count("unserved"), right=True),
        Column("P50 WAIT", _ms("wait_ms_p50"), right=True),
        Column("P95 WAIT", _ms("wait_ms_p95"), right=True),
        Column("STARTS", _count("cold_starts"), right=True),
        Column("WAKES", _count("wakes"), right=True),
        Column("GPU HOURS", lambda row: f"{number_at(row, 'gpu_ms') / 3_600_000:,.3f}", right=True),
        Column(f"COST {currency}", lambda row: f"{number_at(row, 'cost_micros') / 1e6:,.2f}", right=True),
    )


def _simulate(values: Values, context: Context) -> int:
    from gpud.cli import specs  # noqa: PLC0415 - help does without
    from gpud.cli.moments import moment  # noqa: PLC0415 - the same

    body: dict[str, object] = dict(specs.from_options(values, context, _CHANGES))
    for name in ("since", "until"):
        if values.text(name):
            body[name] = moment(values.text(name), name)
    try:
        report = context.client.call(
            "POST", path_of("v1", "endpoints", values.text("name"), "simulate"), body
        )
    except CommandFailed as failure:
        raise specs.with_options_named(failure, _CHANGES) from None
    if context.as_json:
        context.print_json(report)
        return exits.OK
    rows = []
    for field, what in (
        ("actual", "happened"),
        ("present", "replayed as it is"),
        ("changed", "with the changes"),
    ):
        outcome = value_at(report, field)
        if isinstance(outcome, dict):
            rows.append({**outcome, "what": what})
    context.print_text(
        f"{text_at(report, 'endpoint')} from {text_at(report, 'since')} to {text_at(report, 'until')}"
    )
    context.print_table(_columns(text_at(report, "currency")), rows, empty="")
    assumed = value_at(report, "assumed")
    for line in assumed if isinstance(assumed, list) else ():
        context.note(str(line))
    if "changed" not in {name for name, value in report.items() if value}:
        context.note("Say what to change, such as --idle-timeout 5m or --max-workers 2.")
    return exits.OK


COMMANDS = (
    Command(
        ("simulate",),
        "Try other scale settings on the requests that came.",
        _simulate,
        (_NAME,),
        (
            *_CHANGES,
            Option("since", "From: 24h, 7d, a date or a time.", metavar="WHEN", default="7 days ago"),
            Option("until", "To: the same spellings.", metavar="WHEN", default="now"),
        ),
        details=(
            "Replays the record of arrivals and durations through the same decisions that gpud makes, with "
            "starts, and ways back from a rung, that take as long as the recorded ones, on a box where no "
            "other endpoint holds a GPU; it says so where none is on record. The replay of the present "
            "settings beside what happened says how far to trust it: other endpoints, failures and changed "
            "settings are in what happened alone."
        ),
        examples=(
            "gpud simulate llm --idle-timeout 300 --max-workers 2",
            "gpud simulate llm --since 24h --policy queue_delay",
        ),
    ),
)
