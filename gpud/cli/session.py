"""A session in a worker as its user has it: what is typed goes there, what is written there comes here."""

from __future__ import annotations

import contextlib
import json
import os
import select
from typing import TYPE_CHECKING

from gpud.cli import exits, terminal
from gpud.cli.client import Problem
from gpud.cli.exits import CommandFailed
from gpud.cli.websocket import BINARY, TEXT, Channel

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_READ_BYTES = 65_536
_UNSENT_BYTES_MAX = 262_144
_STREAMS = {1: _STDOUT, 2: _STDERR}


class Session:
    """One session.

    Args:
        channel: To the daemon.
        command: A program and its arguments.
        tty: Give it a terminal of the size of the user's.
        interactive: Hand on what is typed, or what stdin has.
    """

    def __init__(self, channel: Channel, command: list[str], *, tty: bool, interactive: bool) -> None:
        self._channel = channel
        self._command = command
        self._tty = tty
        self._typing = interactive
        self._code: int | None = None

    def run(self) -> int:
        """Run the command and return its exit code.

        Raises:
            Problem: The daemon refused, or ended it.
            CommandFailed: The daemon is gone.
        """
        opening: dict[str, object] = {"command": self._command, "tty": self._tty}
        if self._tty:
            opening |= _size()
        self._tell(opening)
        if not self._typing and not self._tty:
            self._tell({"eof": True})
        with self._terminal() as resized:
            while self._code is None:
                self._turn(resized)
        return self._code

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[int | None]:
        """Prepare the user's terminal, if there is one, and give it back."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(terminal.ending_signals())
            if not self._tty:
                yield None
                return
            resized = stack.enter_context(terminal.size_changes())
            if self._typing:
                stack.enter_context(terminal.raw_mode(_STDIN))
            yield resized

    def _turn(self, resized: int | None) -> None:
        """Wait for something to happen, and see to it."""
        channel = self._channel
        watched: list[int | Channel] = [channel]
        if self._typing and channel.unsent_bytes < _UNSENT_BYTES_MAX:
            watched.append(_STDIN)
        if resized is not None:
            watched.append(resized)
        readable, writable, _ = select.select(watched, [channel] if channel.unsent_bytes else [], [])
        if writable:
            channel.flush()
        if channel in readable:
            self._take()
        if resized is not None and resized in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(resized, _READ_BYTES)
            self._tell({"resize": _size()})
        if _STDIN in readable:
            self._type()

    def _type(self) -> None:
        data = os.read(_STDIN, _READ_BYTES)
        if data:
            self._channel.send(BINARY, data)
        else:
            self._typing = False
            self._tell({"eof": True})

    def _take(self) -> None:
        for kind, data in self._channel.receive():
            if kind == TEXT:
                self._end(json.loads(data))
            elif self._tty:
                _write(_STDOUT, data)
            else:
                _write(_STREAMS.get(data[0], _STDERR), data[1:])
        if self._channel.closed and self._code is None:
            raise CommandFailed(
                "The connection to the daemon broke, and the command with it.",
                todo="gpud status says whether it runs.",
                code=exits.UNREACHABLE,
            )

    def _end(self, told: dict[str, object]) -> None:
        problem, code = told.get("problem"), told.get("exit_code")
        if isinstance(problem, dict):
            status = problem.get("status")
            failure = Problem(status if isinstance(status, int) else 500, problem)
            if isinstance(problem.get("exit_code"), int):
                failure.code = problem["exit_code"]
            raise failure
        if isinstance(code, int):
            self._code = code

    def _tell(self, document: dict[str, object]) -> None:
        self._channel.send(TEXT, json.dumps(document).encode())


def _size() -> dict[str, object]:
    """Of the user's terminal."""
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        with contextlib.suppress(OSError):
            cols, rows = os.get_terminal_size(descriptor)
            if cols and rows:
                return {"rows": rows, "cols": cols}
    return {"rows": 24, "cols": 80}


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # Somebody who shares the terminal made it so.
            select.select([], [descriptor], [])
