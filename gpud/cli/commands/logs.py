"""`gpud logs`: what workers wrote, also those that are gone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.exits import BadUsage
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import rows_at, styled, text_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_SHOWN = 100
_PAGE = 1000
_WORKER_PREFIX = "wk_"
_STREAM_STYLES = {"stderr": "yellow", "gpud": "blue"}


def _logs(values: Values, context: Context) -> int:
    query = _query_of(values)
    if values.flag("follow"):
        return _follow(query, values, context)
    last = int(values.number("tail", _SHOWN))
    wants_all = values.flag("all") or bool(query["cursor"])
    shown = _all(query, values, context) if wants_all else _last(query, last, values, context)
    if not shown and not context.as_json:
        context.note("No lines. Workers write when they run; gpud endpoint ls says which do.")
    return exits.OK


def _query_of(values: Values) -> dict[str, object]:
    from gpud.cli.moments import moment  # noqa: PLC0415 - help does without

    name, job = values.text("name"), values.text("job")
    if not name and not job:
        raise BadUsage("Whose output?", todo="Name an endpoint or a worker, or say --job ID.")
    is_worker = name.startswith(_WORKER_PREFIX)
    return {
        "endpoint": "" if is_worker else name,
        "worker": name if is_worker else "",
        "job": job,
        "stream": values.text("stream"),
        "since": moment(values.text("since"), "since"),
        "until": moment(values.text("until"), "until"),
        "grep": values.text("grep"),
        "regex": values.text("regex"),
        "ignore_case": "true" if values.flag("ignore-case") else "",
        "previous": "true" if values.flag("previous") else "",
        "cursor": values.text("cursor"),
    }


def _last(query: dict[str, object], last: int, values: Values, context: Context) -> bool:
    page = context.client.get("/v1/logs", {**query, "limit": min(max(last, 0), 5000)})
    items = rows_at(page, "items")
    for line in items:
        _show(line, values, context)
    if page.get("complete") is False:
        context.note(
            "There is more than was searched: say --all, or a shorter time with --since and --until."
        )
    return bool(items)


def _all(query: dict[str, object], values: Values, context: Context) -> bool:
    """Every line there is now, page by page."""
    cursor, any_shown = query["cursor"], False
    while True:
        page = context.client.get("/v1/logs", {**query, "cursor": cursor, "order": "oldest", "limit": _PAGE})
        for line in rows_at(page, "items"):
            _show(line, values, context)
            any_shown = True
        cursor = text_at(page, "next")
        if page.get("complete") is not False:
            return any_shown


def _follow(query: dict[str, object], values: Values, context: Context) -> int:
    last = int(values.number("tail", _SHOWN))
    if values.flag("all"):
        query = {**query, "order": "oldest"}
    asked = {**query, "follow": "true", "limit": min(max(last, 0), 5000)}
    for line in context.client.events("/v1/logs", asked):
        if "lost_bytes" in line:
            context.note(f"{text_at(line, 'lost_bytes')} bytes were deleted before they could be shown.")
            continue
        _show(line, values, context)
        sys.stdout.flush()
    context.note("The daemon ended the stream: it is stopping.")
    return exits.UNREACHABLE


def _show(line: Mapping[str, object], values: Values, context: Context) -> None:
    if context.as_json:
        context.print_json_line(line)
        return
    text, stream = text_at(line, "text"), text_at(line, "stream")
    if not values.flag("raw"):
        from gpud.core.plain_text import plain  # noqa: PLC0415 - help does without

        text = plain(text)
    about = [] if values.flag("no-prefix") else [_clock(text_at(line, "at")), text_at(line, "worker_id")]
    if about and stream == "gpud":
        about.append("gpud:")
    prefix = " ".join(about) + " " if about else ""
    colour = context.colour
    style = _STREAM_STYLES.get(stream, "") if about else ""
    shown = styled(prefix, "dim", colour=colour) + styled(text, style, colour=colour)
    context.print_raw(shown) if values.flag("raw") else context.print_text(shown)


def _clock(stamp: str) -> str:
    from datetime import datetime  # noqa: PLC0415 - help does without

    moment = datetime.fromisoformat(stamp[:23] + "+00:00").astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"


COMMANDS = (
    Command(
        ("logs",),
        "Show what the workers of an endpoint wrote, or one worker.",
        _logs,
        (Argument("name", "An endpoint, or the id of a worker.", required=False, kind=grammar.ENDPOINT),),
        (
            Option("follow", "Go on with new lines until interrupted.", kind=grammar.FLAG, short="f"),
            Option("tail", "How many of the last lines.", kind=grammar.WHOLE, short="n", default=str(_SHOWN)),
            Option("all", "All lines that are kept, instead of the last ones.", kind=grammar.FLAG),
            Option("since", "Only lines from then on: 10m, or a time.", metavar="WHEN"),
            Option("until", "Only lines before then.", metavar="WHEN"),
            Option("grep", "Only lines with this text.", metavar="TEXT"),
            Option("regex", "Only lines in which this expression (RE2) is found.", metavar="RE"),
            Option(
                "ignore-case", "Take capitals and small letters for the same.", kind=grammar.FLAG, short="i"
            ),
            Option(
                "stream",
                "Only what came this way; gpud is what gpud says of the worker.",
                choices=("stdout", "stderr", "gpud"),
                metavar="STREAM",
            ),
            Option("previous", "Only workers that are gone.", kind=grammar.FLAG, short="p"),
            Option("job", "Only what a job's workers wrote while they had it.", metavar="ID"),
            Option("cursor", "Go on after the line with this cursor (see --json).", metavar="CURSOR"),
            Option("raw", "Leave control characters and terminal sequences in.", kind=grammar.FLAG),
            Option("no-prefix", "Leave time and worker out.", kind=grammar.FLAG),
        ),
        details="Times are local. With --json each line is one JSON document, with its cursor. Secrets are "
        "replaced before anything is written to disk.",
        examples=(
            "gpud logs llm -f",
            "gpud logs llm --since 1h --regex 'error|timeout' -i",
            "gpud logs llm --previous --tail 50",
            "gpud logs wk_4hcr2m7dq3xvn5ta --all --raw",
        ),
    ),
)
