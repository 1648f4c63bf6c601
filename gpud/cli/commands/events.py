"""`gpud events`: what happened, and what happens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.grammar import Command, Option
from gpud.cli.output import rows_at, styled, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_SHOWN = 30
_SHOWN_MAX = 500


def _events(values: Values, context: Context) -> int:
    about = {"endpoint": values.text("endpoint"), "worker": values.text("worker")}
    follow = values.flag("follow")
    last = int(values.number("last", 10 if follow else _SHOWN))
    limit = min(max(last, 1), _SHOWN_MAX)
    page = context.client.get("/v1/events", {**about, "limit": limit, "order": "newest"})
    newest = rows_at(page, "items")
    for event in reversed(newest[: max(last, 0)]):
        _show(event, context, as_lines=follow)
    if context.as_json and not follow:
        context.print_json({"items": list(reversed(newest)), "next": None})
    if not follow:
        if not newest and not context.as_json:
            context.note("Nothing has happened yet.")
        return exits.OK
    sys.stdout.flush()
    seen = text_at(newest[0], "seq") if newest else ""
    for event in context.client.events("/v1/events", {**about, "follow": "true"}, last_id=seen):
        _show(event, context, as_lines=True)
        sys.stdout.flush()
    context.note("The daemon ended the stream: it is stopping.")
    return exits.UNREACHABLE


def _show(event: Mapping[str, object], context: Context, *, as_lines: bool) -> None:
    if not context.as_json:
        context.print_text(event_line(event, colour=context.colour))
    elif as_lines:
        context.print_json_line(event)


def event_line(event: Mapping[str, object], *, colour: bool = False) -> str:
    """An event on one line: when, what, about whom, and its facts."""
    facts = value_at(event, "facts")
    about = [text_at(event, "endpoint"), text_at(event, "worker_id")]
    told = [f"{name}={_fact(fact)}" for name, fact in facts.items()] if isinstance(facts, dict) else []
    kind = text_at(event, "kind")
    bad = kind.endswith(("failed", "lost", "violated", "quarantined", "unhealthy", "opened"))
    return "  ".join(
        [
            styled(_local_time(text_at(event, "at")), "dim", colour=colour),
            styled(f"{kind:<26}", "red" if bad else "", colour=colour),
            *(word for word in about if word),
            styled(" ".join(told), "dim", colour=colour),
        ]
    ).rstrip()


def _fact(fact: object) -> str:
    if isinstance(fact, list):
        return ",".join(_fact(one) for one in fact)
    text = "" if fact is None else str(fact)
    return f'"{text}"' if not text or " " in text else text


def _local_time(moment: str) -> str:
    from datetime import datetime  # noqa: PLC0415 - help does without

    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""


COMMANDS = (
    Command(
        ("events",),
        "Show what happened, and with -f what happens.",
        _events,
        options=(
            Option("follow", "Go on with new events until interrupted.", kind=grammar.FLAG, short="f"),
            Option("last", "How many past events.", kind=grammar.WHOLE, short="n", default="30, with -f 10"),
            Option("endpoint", "Only this endpoint's.", kind=grammar.ENDPOINT, metavar="NAME"),
            Option("worker", "Only this worker's.", metavar="ID"),
        ),
        details="Times are local. With -f and --json each event is one JSON document on a line.",
    ),
)
