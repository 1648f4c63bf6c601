"""`gpud top`: endpoints, workers and GPUs as they are now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.exits import BadUsage
from gpud.cli.grammar import DURATION, FLAG, Command, Option

if TYPE_CHECKING:
    from gpud.cli.client import Client
    from gpud.cli.context import Context
    from gpud.cli.top_model import Look
    from gpud.cli.values import Values

_ANSWER_S = 5.0
_RATE_OVER_S = 1.0
_PLAIN_WIDTH = 120
_ORDERS = ("name", "load", "memory", "age")


def _top(values: Values, context: Context) -> int:
    interval_s = values.number("interval", 2.0)
    if not 0.2 <= interval_s <= 3600:
        raise BadUsage("--interval is between 0.2 s and an hour.")
    if context.as_json:
        context.print_json(context.client.get("/v1/state"))
        return exits.OK
    from gpud.cli.top_screen import look_at, run  # noqa: PLC0415 - help does without

    def new_client() -> Client:
        return context.new_client(timeout_s=_ANSWER_S)

    client = new_client()
    first = look_at(client)
    if not values.flag("once") and context.on_terminal:
        client.close()
        return run(first, new_client, interval_s, order=values.text("sort", "name"))
    import time  # noqa: PLC0415 - for this way alone

    time.sleep(_RATE_OVER_S)  # so that there are rates
    now = look_at(client)
    client.close()
    _print(now, first, values.text("sort", "name"), context)
    return exits.OK


def _print(now: Look, first: Look, order: str, context: Context) -> None:
    from rich.console import Console  # noqa: PLC0415 - help does without

    from gpud.cli.top_model import top_of  # noqa: PLC0415
    from gpud.cli.top_view import Frame, draw  # noqa: PLC0415

    width = os.get_terminal_size(1).columns if context.on_terminal else _PLAIN_WIDTH
    console = Console(highlight=False, emoji=False, markup=False, width=width)
    for line in draw(top_of(now, first, order=order), Frame(width=width)):
        console.print(line, overflow="ignore", no_wrap=True, crop=False)


COMMANDS = (
    Command(
        ("top",),
        "Show endpoints, workers and GPUs as they are now.",
        _top,
        options=(
            Option("once", "Print it once and end, as when the output is no terminal.", kind=FLAG),
            Option("interval", "Between looks.", kind=DURATION, default="2s"),
            Option("sort", "Order to begin with.", choices=_ORDERS, default="name"),
        ),
        details=(
            "Keys: q ends it; 1 shows everything, 2 endpoints, 3 workers, 4 GPUs; n, l, m and a sort by "
            "name, load, memory and age, and o turns the order; the arrows scroll; space holds the picture."
            "\n\n"
            "A daemon that goes away is said above the last picture, and looked for until it is back. "
            "With --json the state is printed once."
        ),
        examples=("gpud top", "gpud top --once --sort load", "gpud top --interval 500ms"),
    ),
)
