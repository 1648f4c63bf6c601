"""What a command is made of: its words, arguments and options.

The commands themselves stand beside the functions that run them, in `gpud.cli.commands`. Parser,
help, completion and `docs/reference/cli.md` all read these tables.

These are named tuples and not dataclasses because the `dataclasses` import alone costs a command
10 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.cli.context import Context
    from gpud.cli.values import Values

FLAG = "flag"
TEXT = "text"
WHOLE = "whole"
NUMBER = "number"
DURATION = "duration"
PAIR = "pair"
ENDPOINT = "endpoint"
"""A text that names an endpoint; completion offers those that exist."""


class Option(NamedTuple):
    """A named value of a command.

    Args:
        name: Spelled `--name` by the user.
        help: One line.
        kind: How its value is read.
        metavar: Stands for the value in the help.
        short: One letter, spelled `-x`; empty for none.
        repeat: May be given several times.
        negatable: A flag that also has a `--no-` spelling.
        field: Path of the API field it sets; faults of that field are shown under the option's name.
        choices: The only legal values, if there are such.
        default: What applies without it, for the help.
        also: A second long spelling; empty for none.
    """

    name: str
    help: str
    kind: str = TEXT
    metavar: str = ""
    short: str = ""
    repeat: bool = False
    negatable: bool = False
    field: str = ""
    choices: tuple[str, ...] = ()
    default: str = ""
    also: str = ""


class Argument(NamedTuple):
    """A positional value of a command.

    Args:
        name: In lower case; shown in capitals.
        help: One line.
        required: It must be given.
        rest: Takes everything after `--`.
        repeat: Takes one value or more.
        kind: TEXT or ENDPOINT.
        choices: The only legal values, if there are such.
        field: Path of the API field it sets.
    """

    name: str
    help: str
    required: bool = True
    rest: bool = False
    repeat: bool = False
    kind: str = TEXT
    choices: tuple[str, ...] = ()
    field: str = ""


class Command(NamedTuple):
    """One command.

    Args:
        words: What the user types, such as `("endpoint", "ls")`.
        summary: One line, as an order.
        run: Carries it out and returns the exit code.
        arguments: In order.
        options: Without the global ones.
        details: Paragraphs for its own help page.
        examples: Command lines.
    """

    words: tuple[str, ...]
    summary: str
    run: Callable[[Values, Context], int]
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    details: str = ""
    examples: tuple[str, ...] = ()

    @property
    def spelling(self) -> str:
        """The command as the user types it."""
        return " ".join(("gpud", *self.words))


GLOBAL_OPTIONS = (
    Option(
        "socket", "Unix socket of the daemon.", metavar="PATH", default="GPUD_SOCKET, else /run/gpud/api.sock"
    ),
    Option(
        "url",
        "Reach the daemon over TCP instead, with the key in GPUD_KEY.",
        metavar="URL",
        default="GPUD_URL",
    ),
    Option("json", "Print the API's JSON.", kind=FLAG),
    Option("help", "Show help.", kind=FLAG, short="h"),
)
"""Accepted by every command, before or after its words."""
