"""`gpud audit-log`: who changed what, from where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.grammar import Command, Option
from gpud.cli.output import Column, number_at, rows_at, text_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_SHOWN = 30
_PAGE = 500


def _change(row: Mapping[str, object]) -> str:
    before, after = text_at(row, "before")[:8], text_at(row, "after")[:8]
    if before == after:
        return ""
    return f"{before or '-'} > {after or '-'}"


COLUMNS = (
    Column("SEQ", lambda row: text_at(row, "seq"), right=True),
    Column("AT", lambda row: text_at(row, "at")),
    Column("CALLER", lambda row: text_at(row, "caller")),
    Column("FROM", lambda row: text_at(row, "source")),
    Column("OPERATION", lambda row: text_at(row, "operation")),
    Column("SUBJECT", lambda row: text_at(row, "subject"), shrink=True),
    Column("STATUS", lambda row: text_at(row, "status"), right=True),
    Column("CHANGE", _change),
    Column("DETAIL", lambda row: text_at(row, "detail"), shrink=True),
)


def _audit_log(values: Values, context: Context) -> int:
    from gpud.cli.moments import moment  # noqa: PLC0415 - help does without

    query: dict[str, object] = {
        "caller": values.text("caller"),
        "operation": values.text("operation"),
        "subject": values.text("subject"),
        "since": moment(values.text("since"), "since"),
        "until": moment(values.text("until"), "until"),
    }
    if values.number("after", -1) >= 0:
        _export(query | {"after": int(values.number("after", 0))}, context)
        return exits.OK
    last = max(1, int(values.number("last", _SHOWN)))
    page = context.client.get("/v1/audit-log", {**query, "limit": min(last, _PAGE)})
    if context.as_json:
        context.print_json(page)
    else:
        context.print_table(
            COLUMNS, list(reversed(rows_at(page, "items"))), empty="No call has changed anything."
        )
    return exits.OK


def _export(query: Mapping[str, object], context: Context) -> None:
    for row in _rows(query, context):
        context.print_json_line(row)


def _rows(query: Mapping[str, object], context: Context) -> Iterator[dict[str, object]]:
    after = query["after"]
    while True:
        page = context.client.get("/v1/audit-log", {**query, "after": after, "limit": _PAGE})
        rows = rows_at(page, "items")
        yield from rows
        if not text_at(page, "next"):
            return
        after = int(number_at(rows[-1], "seq"))


COMMANDS = (
    Command(
        ("audit-log",),
        "Show who changed what, and from where.",
        _audit_log,
        options=(
            Option("last", "How many, at most 500.", kind=grammar.WHOLE, short="n", default=str(_SHOWN)),
            Option("caller", "Only calls of this key; `local` for the Unix socket.", metavar="KEY"),
            Option("operation", "Only calls of this operation, such as put_endpoint.", metavar="NAME"),
            Option("subject", "Only calls about this, such as endpoints/llm.", metavar="WHAT"),
            Option("since", "From: 24h, 30d, a date or a time.", metavar="WHEN", default="the beginning"),
            Option("until", "To: the same spellings.", metavar="WHEN", default="now"),
            Option(
                "after",
                "Print all entries after this number, oldest first, each as JSON on a line.",
                kind=grammar.WHOLE,
                metavar="SEQ",
            ),
        ),
        details=(
            "Every call that changes something is recorded at its end, refused ones too when the caller was "
            "known and might make them. CHANGE shows the first digits of two SHA-256 sums: of what the thing "
            "was declared to be before the call, and after it. It needs the scope admin.\n\n"
            "--after exports: give the largest `seq` you have, 0 for all, and append what is printed."
        ),
        examples=("gpud audit-log --subject endpoints/llm", "gpud audit-log --after 0 > audit.jsonl"),
    ),
)
