"""The user's own terminal while what is typed belongs to another: raw, and put back whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Ended(BaseException):
    """A signal that ends the command; derived so that nothing on the way takes it for an error.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Hand every key on as it is, Ctrl-C included, and give the terminal back as it was."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        # What was typed ahead stays for the shell; what was written goes out first.
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise `Ended`, so that whoever changed the terminal can put it back."""

    def end(number: int, _frame: FrameType | None) -> Never:
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def size_changes() -> Iterator[int]:
    """A descriptor that can be read from when the window's size has changed."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    before = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
    told = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(told)
        signal.signal(signal.SIGWINCH, before)
        os.close(readable)
        os.close(writable)
