"""`gpud rollback`: ends a rollout under way, or goes back to an earlier revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import text_at, value_at

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values

_WAIT_LIMIT_S = 1800.0

_ARGUMENTS = (
    Argument("name", "Name of the endpoint.", kind=grammar.ENDPOINT),
    Argument("revision", "Number of a revision, or the beginning of its hash.", required=False),
)
_OPTIONS = (
    Option(
        "wait",
        "Wait until the earlier revision serves.",
        kind=grammar.FLAG,
        negatable=True,
        default="yes",
    ),
    Option("wait-timeout", "Longest wait.", kind=grammar.DURATION, default="30m"),
)


def _rollback(values: Values, context: Context) -> int:
    name = values.text("name")
    path = path_of("v1", "endpoints", name, "rollback")
    endpoint = context.client.call("POST", path, {"revision": values.text("revision")})
    if values.flag("wait", default=True) and value_at(endpoint, "rollout", "active"):
        from gpud.cli import rolling  # noqa: PLC0415 - only for who waits

        limit_s = values.number("wait-timeout", _WAIT_LIMIT_S)
        endpoint = rolling.until_rolled_out(context, endpoint, limit_s=limit_s)
    if context.as_json:
        context.print_json(endpoint)
    else:
        doing = "is going back to" if value_at(endpoint, "rollout", "active") else "is back at"
        context.print_text(f"{name} {doing} revision {text_at(endpoint, 'revision')}.")
    return exits.OK


COMMANDS = (
    Command(
        ("rollback",),
        "End a rollout under way, or go back to an earlier revision.",
        _rollback,
        _ARGUMENTS,
        _OPTIONS,
        details=(
            "Without a revision it goes back to the one that was good before. The earlier revision is "
            "rolled out like any other: tried first, then the workers follow. Scale settings stay."
        ),
        examples=("gpud rollback llm", "gpud rollback llm 3"),
    ),
)
