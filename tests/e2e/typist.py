"""A person at a terminal: runs the command line on a pseudo-terminal, types, reads, changes the window."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PATIENCE_S = 20.0


class Typist:
    """See the module's text.

    Args:
        words: Of the command line, without the program's name.
        env: The process's whole environment.
        rows: Height of the terminal.
        cols: Its width.
    """

    def __init__(
        self, words: Sequence[str], env: Mapping[str, str], *, rows: int = 24, cols: int = 80
    ) -> None:
        self._mine, self._its = pty.openpty()
        self.resize(rows, cols)
        self._before = termios.tcgetattr(self._its)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpud", *words],
            env=dict(env),
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(_PATIENCE_S)
        os.close(self._mine)
        os.close(self._its)

    @property
    def terminal_is_as_before(self) -> bool:
        """Whether the terminal has the settings it had before the command."""
        return termios.tcgetattr(self._its) == self._before

    def resize(self, rows: int, cols: int) -> None:
        """Change the window; the process hears of it when there is one."""
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        with contextlib.suppress(AttributeError, ProcessLookupError):
            os.kill(self.process.pid, 28)

    def types(self, text: bytes) -> None:
        """Type."""
        os.write(self._mine, text)

    def reads(self, wanted: bytes) -> bytes:
        """Wait until `wanted` appears after what was read before; returns all up to it."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while wanted not in self.seen:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{wanted!r} did not come: {self.seen!r}"
            if select.select([self._mine], [], [], left_s)[0]:
                self.seen += os.read(self._mine, 65_536)
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def leaves(self) -> int:
        """Wait for the command's end; returns its exit code."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"it does not end: {self.seen!r}"
            if select.select([self._mine], [], [], 0.05)[0]:
                self.seen += os.read(self._mine, 65_536)
        while select.select([self._mine], [], [], 0)[0]:
            self.seen += os.read(self._mine, 65_536)
        return self.process.returncode
