"""`--watch`: runs a command again and again, and shows what it prints as it changes."""

from __future__ import annotations

import io
import sys
import time
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import DURATION, FLAG, Option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gpud.cli.context import Context
    from gpud.cli.grammar import Command
    from gpud.cli.values import Values

_PERIOD_S = 2.0
_LOST = (exits.UNREACHABLE, exits.TIMED_OUT)

OPTIONS = (
    Option("watch", "Show it again and again until interrupted.", kind=FLAG, short="w"),
    Option("interval", "Between two looks of --watch.", kind=DURATION, default="2s"),
)


def watched(command: Command) -> Command:
    """The same command with `--watch`."""
    return command._replace(options=(*command.options, *OPTIONS), run=partial(_run, command.run))


def _run(run: Callable[[Values, Context], int], values: Values, context: Context) -> int:
    if not values.flag("watch"):
        return run(values, context)
    period_s = values.number("interval", _PERIOD_S)
    if not 0.2 <= period_s <= 3600:
        raise BadUsage("--interval is between 0.2 s and an hour.")
    if context.on_terminal and not context.as_json:
        with _other_screen():
            _show_in_place(run, values, context, period_s)
    _print_changes(run, values, context, period_s)
    return exits.OK


def _show_in_place(
    run: Callable[[Values, Context], int], values: Values, context: Context, period_s: float
) -> None:
    """Draw over what was there, for ever; Ctrl-C ends it."""
    import os  # noqa: PLC0415 - for this way alone

    while True:
        text, failure = _told(run, values, context)
        height = os.get_terminal_size(1).lines
        lines = text.splitlines()
        if failure is not None:
            lines = [f"gpud: {failure.what}", "Trying again.", "", *lines]
        if len(lines) > height - 1:
            lines = [*lines[: height - 2], f"… {len(lines) - height + 2} more lines"]
        sys.stdout.write("\033[H" + "".join(f"{line}\033[K\n" for line in lines) + "\033[J")
        sys.stdout.flush()
        time.sleep(period_s)


def _print_changes(
    run: Callable[[Values, Context], int], values: Values, context: Context, period_s: float
) -> None:
    """Print it whenever it is not as it was, for ever: for files, pipes and programs."""
    last = None
    while True:
        text, failure = _told(run, values, context)
        if failure is not None:
            context.note(f"gpud: {failure.what} Trying again.")
        elif text != last:
            if last is not None and not context.as_json:
                sys.stdout.write("\n")
            sys.stdout.write(text)
            sys.stdout.flush()
            last = text
        time.sleep(period_s)


class _Captured(io.StringIO):
    """Takes what would go to stdout, which stays what it is: a terminal or none."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def _told(
    run: Callable[[Values, Context], int], values: Values, context: Context
) -> tuple[str, CommandFailed | None]:
    """What the command prints now, and why it could not if the daemon is away.

    Raises:
        CommandFailed: It cannot ever: a wrong name, a key that may not.
    """
    captured = _Captured(terminal=context.on_terminal and not context.as_json)
    try:
        with redirect_stdout(captured):
            run(values, context)
    except CommandFailed as failure:
        if failure.code not in _LOST:
            raise
        context.forget_client()
        return captured.getvalue(), failure
    return captured.getvalue(), None


@contextmanager
def _other_screen() -> Iterator[None]:
    """Draw on the terminal's other screen, without a cursor, and give it back however it ends."""
    import signal  # noqa: PLC0415 - for this way alone

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    sys.stdout.write("\033[?1049h\033[?25l")
    try:
        yield
    finally:
        sys.stdout.write("\033[?25h\033[?1049l")
        sys.stdout.flush()
        for number, handler in before.items():
            signal.signal(number, handler)
