"""Runs `gpud top` on a terminal: looks on a thread, keys and drawing here, the terminal given back."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gpud.cli import exits
from gpud.cli.exits import CommandFailed
from gpud.cli.top_model import Look, samples_of, top_of
from gpud.cli.top_view import SECTIONS, Frame, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gpud.cli.client import Client

_ORDER_KEYS = {"n": "name", "l": "load", "m": "memory", "a": "age"}
_UP, _DOWN = ("\033[A", "\033OA", "k"), ("\033[B", "\033OB", "j")
_PAGE_UP, _PAGE_DOWN = ("\033[5~",), ("\033[6~",)
_PAGE = 10
_TICK_S = 0.5
"""How often the screen is drawn anew without a reason, for its ages."""


def look_at(client: Client) -> Look:
    """Ask the daemon once.

    Raises:
        CommandFailed: It cannot be asked.
    """
    state = client.get("/v1/state")
    answer = client.send("GET", "/metrics")
    text = answer.read().decode("utf-8", "replace")
    return Look(time.monotonic(), state, samples_of(text if answer.status < 400 else ""))


class Looking(NamedTuple):
    """What the looks have brought.

    Args:
        now: The newest; None before the first.
        before: The one before, for rates.
        fault: Why the last one failed; None when it did not.
        failing_since_s: Monotonic seconds.
    """

    now: Look | None = None
    before: Look | None = None
    fault: CommandFailed | None = None
    failing_since_s: float = 0.0


class Watcher:
    """Looks again and again on a thread of its own, so that a daemon that hangs holds no key up.

    Args:
        new_client: Makes a connection.
        interval_s: Between looks.
        changed: Called on the thread when there is news.
    """

    def __init__(
        self, new_client: Callable[[], Client], interval_s: float, changed: Callable[[], None]
    ) -> None:
        self._new_client = new_client
        self._interval_s = interval_s
        self._changed = changed
        self._over = threading.Event()
        self.looking = Looking()
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)

    def start(self, first: Look) -> None:
        """Go on from a first look."""
        self.looking = Looking(now=first)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a look under way is left to itself."""
        self._over.set()

    def _run(self) -> None:
        client: Client | None = None
        while not self._over.wait(self._interval_s):
            try:
                client = client or self._new_client()
                self.looking = Looking(look_at(client), self.looking.now)
            except CommandFailed as failure:
                since_s = self.looking.failing_since_s or time.monotonic()
                self.looking = self.looking._replace(fault=failure, failing_since_s=since_s)
                if client is not None:
                    client.close()
                client = None
            self._changed()


class Shown(NamedTuple):
    """What the user chose by keys."""

    section: str = "all"
    order: str = "name"
    backwards: bool = False
    scroll: int = 0
    paused: bool = False
    over: bool = False


def pressed(shown: Shown, key: str) -> Shown:
    """What a key changes; other keys change nothing."""
    if key in ("q", "Q", "\x03", "\x04"):
        return shown._replace(over=True)
    if key in _ORDER_KEYS:
        return shown._replace(order=_ORDER_KEYS[key], scroll=0)
    if key in ("1", "2", "3", "4"):
        return shown._replace(section=SECTIONS[int(key) - 1], scroll=0)
    if key == "o":
        return shown._replace(backwards=not shown.backwards)
    if key == " ":
        return shown._replace(paused=not shown.paused)
    steps = {**dict.fromkeys(_UP, -1), **dict.fromkeys(_DOWN, 1)}
    steps |= {**dict.fromkeys(_PAGE_UP, -_PAGE), **dict.fromkeys(_PAGE_DOWN, _PAGE)}
    return shown._replace(scroll=max(shown.scroll + steps.get(key, 0), 0))


def keys_in(text: str) -> list[str]:
    """Split what a terminal sent into keys; an escape sequence is one."""
    keys, i = [], 0
    while i < len(text):
        end = i + 1
        if text[i] == "\033" and text[i + 1 : i + 2] in ("[", "O"):
            end = i + 2
            while end < len(text) and not ("@" <= text[end] <= "~"):
                end += 1
            end += 1
        keys.append(text[i:end])
        i = end
    return keys


def run(first: Look, new_client: Callable[[], Client], interval_s: float, *, order: str) -> int:
    """Show looks until a key ends it; the terminal is as before whatever happens."""
    screen = _Screen(new_client, interval_s)
    try:
        return screen.run(first, Shown(order=order))
    finally:
        screen.close()


class _Screen:
    def __init__(self, new_client: Callable[[], Client], interval_s: float) -> None:
        self._console = Console(highlight=False, emoji=False, markup=False)
        self._read_fd, self._wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watcher = Watcher(new_client, interval_s, self._wake)
        self._keys_fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._held: Looking | None = None
        self._ended_by = 0

    def close(self) -> None:
        self._watcher.stop()
        # The thread may write to the pipe until it ends: both ends live as long as the process.

    def run(self, first: Look, shown: Shown) -> int:
        self._watcher.start(first)
        with self._signals(), self._cbreak(), self._live() as live:
            while not shown.over and not self._ended_by:
                self._draw(live, shown)
                for key in self._wait():
                    shown = pressed(shown, key)
                self._held = (self._held or self._watcher.looking) if shown.paused else None
        return 128 + self._ended_by if self._ended_by else exits.OK

    def _live(self) -> Live:
        return Live(Text(""), console=self._console, screen=True, auto_refresh=False, redirect_stdout=False)

    def _draw(self, live: Live, shown: Shown) -> None:
        looking = self._held or self._watcher.looking
        if looking.now is None:
            return
        top = top_of(looking.now, looking.before, order=shown.order, backwards=shown.backwards)
        width, height = self._console.size
        frame = Frame(
            width=width,
            height=height,
            section=shown.section,
            scroll=shown.scroll,
            order=shown.order + (", turned" if shown.backwards else ""),
            note=_note(looking, paused=shown.paused),
            keys=self._keys_fd >= 0,
            lost=looking.fault is not None,
        )
        live.update(Group(*draw(top, frame)), refresh=True)

    def _wait(self) -> list[str]:
        """Wait for a key, news, or a moment."""
        watched = [self._read_fd, *([self._keys_fd] if self._keys_fd >= 0 else [])]
        try:
            ready = select.select(watched, [], [], _TICK_S)[0]
        except InterruptedError:
            return []
        if self._read_fd in ready:
            os.read(self._read_fd, 4096)
        if self._keys_fd not in ready:
            return []
        text = os.read(self._keys_fd, 4096)
        if not text:
            return ["q"]  # the terminal is gone
        return keys_in(text.decode("utf-8", "replace"))

    def _wake(self) -> None:
        try:
            os.write(self._wake_fd, b"x")
        except BlockingIOError:
            return

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """End on the signals that end a program, drawn back first; redraw when the size changes."""

        def end(number: int, _frame: object) -> None:
            self._ended_by = number
            self._wake()

        def redraw(_number: int, _frame: object) -> None:
            self._wake()

        handlers = {signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGINT: end, signal.SIGWINCH: redraw}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        # Ctrl-Z would leave the shell on the other screen; it is passed over.
        before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _cbreak(self) -> Iterator[None]:
        """Keys come at once and are not shown."""
        if self._keys_fd < 0:
            yield
            return
        before = termios.tcgetattr(self._keys_fd)
        try:
            tty.setcbreak(self._keys_fd)
            yield
        finally:
            termios.tcsetattr(self._keys_fd, termios.TCSADRAIN, before)


def _note(looking: Looking, *, paused: bool) -> str:
    if paused:
        return "paused; space goes on"
    if looking.fault is None:
        return ""
    ago_s = time.monotonic() - looking.failing_since_s
    return f"lost the daemon {ago_s:.0f} s ago, trying again: {looking.fault.what}"
