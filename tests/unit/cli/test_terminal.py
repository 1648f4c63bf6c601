"""What a person sees: commands on a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

from gpud.cli import exits
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.cli.canned import Seen


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LIMIT_S = 30.0


class Terminal:
    """Runs `gpud` with this many columns, and reads what it draws."""

    def __init__(self, *words: str, columns: int = 100) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpud", *words],
            env={**environment, "TERM": "xterm-256color"},
            preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509 - a password is asked for on the controlling terminal
        )
        os.close(slave)
        self.drawn = ""

    def until(self, seen: Callable[[str], bool]) -> str:
        """Read until the drawing is as wanted, or the command ends."""
        deadline_s = time.monotonic() + _LIMIT_S
        while not seen(self.drawn):
            assert time.monotonic() < deadline_s, self.drawn
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # The other side is closed.
                break
            self.drawn += piece.decode()
        return self.drawn

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fd(self) -> int:
        return self._master

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> tuple[int, str]:
        """Read to the end; the exit code, and the text without escapes."""
        self.until(lambda _drawn: False)
        os.close(self._master)
        return self._process.wait(_LIMIT_S), _ESCAPES.sub("", self.drawn)


def test_a_listing_is_coloured_and_fits_the_terminal(daemon: CannedDaemon) -> None:
    long = {"reference": "ghcr.io/acme/team/" + "x" * 100 + ":1", "pin": "p", "exposed_ports": []}
    daemon.lists("/v1/endpoints", documents.endpoint(), documents.endpoint("long", image=long))
    terminal = Terminal("endpoint", "ls", columns=90)
    code, text = terminal.end()
    assert code == 0
    assert "\x1b[32mready" in terminal.drawn
    assert max(len(line) for line in text.split("\r\n")) <= 90
    assert "ghcr.io/" in text
    assert "…" in text


def test_no_color_is_respected(daemon: CannedDaemon) -> None:
    daemon.lists("/v1/endpoints", documents.endpoint())
    command = f"NO_COLOR=1 {sys.executable} -m gpud endpoint ls"
    ran = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=True)
    assert "llm" in ran.stdout
    assert "\x1b[" not in ran.stdout


def _starting(daemon: CannedDaemon) -> None:
    pull = {"layers": 4, "layers_done": 2, "bytes_total": 1 << 30, "bytes_done": 1 << 29}
    states = iter(["pulling", "pulling", "pulling", "creating", "starting", "starting"])

    def look(_seen: object) -> Reply:
        state = next(states, "ready")
        return json_reply(
            documents.endpoint(
                spec=documents.spec(min_workers=1),
                workers=[documents.worker(state=state)],
                pull=pull if state == "pulling" else None,
                condition="ready" if state == "ready" else "starting",
            )
        )

    daemon.on("PUT", "/v1/endpoints/llm", look)
    daemon.on("GET", "/v1/endpoints/llm", look)


def test_a_deploy_draws_a_bar_for_the_pull_and_a_line_for_each_phase(daemon: CannedDaemon) -> None:
    _starting(daemon)
    terminal = Terminal("deploy", "x", "-n", "llm")
    code, text = terminal.end()
    assert code == 0
    assert "512.0 MiB of 1.0 GiB, 2/4 layers" in text
    last = text.rsplit("✓ image", 1)[1]
    assert [line.split()[1] for line in last.split("\r\n") if line.startswith("✓")] == [
        "create",
        "start",
        "ready",
    ]
    assert "llm created: ready" in last
    assert terminal.drawn.rindex("\x1b[?25h") > terminal.drawn.rindex("\x1b[?25l"), (
        "the cursor is shown again"
    )


def test_an_interrupted_wait_ends_with_130_and_gives_the_cursor_back(daemon: CannedDaemon) -> None:
    starting = documents.endpoint(spec=documents.spec(min_workers=1), workers=[], condition="starting")
    daemon.on("PUT", "/v1/endpoints/llm", starting)
    daemon.on("GET", "/v1/endpoints/llm", starting)
    terminal = Terminal("deploy", "x", "-n", "llm")
    terminal.until(lambda drawn: "reserving GPUs" in drawn)
    terminal.type("\x03")
    code, text = terminal.end()
    assert code == 130
    assert "Traceback" not in text
    assert terminal.drawn.rindex("\x1b[?25h") > terminal.drawn.rindex("\x1b[?25l")


def test_a_held_invoke_shows_the_start_and_leaves_only_the_answer(daemon: CannedDaemon) -> None:
    _starting(daemon)

    def held(_seen: object) -> Reply:
        deadline_s = time.monotonic() + _LIMIT_S
        while len(daemon.asked("GET")) < 5 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return Reply(body=b"the answer")

    daemon.on("GET", "/e/llm/", held)
    terminal = Terminal("invoke", "llm")
    code, text = terminal.end()
    assert code == 0
    assert "512.0 MiB of 1.0 GiB" in text
    assert text.endswith("the answer\r\n")
    assert "\x1b[2K" in terminal.drawn, "the display is wiped"


def test_a_registry_password_is_asked_for_and_not_echoed(daemon: CannedDaemon) -> None:
    stored = {"name": "ghcr", "host": "ghcr.io", "username": "me", "created_at": documents.ago()}
    daemon.on("PUT", "/v1/registries/ghcr", stored)
    terminal = Terminal("registry", "login", "ghcr", "--host", "ghcr.io", "-u", "me")
    terminal.until(lambda drawn: "Password or token of me at ghcr.io: " in drawn)
    terminal.type("s3cret\n")
    code, text = terminal.end()
    assert code == 0
    assert daemon.seen[0].document["password"] == "s3cret"
    assert "s3cret" not in text


def test_a_watched_listing_is_drawn_over_and_the_terminal_given_back(daemon: CannedDaemon) -> None:
    names = iter(["first", "second"])
    rows = [documents.endpoint(next(names))]

    def listed(_seen: Seen) -> Reply:
        return json_reply({"items": rows, "next": None})

    daemon.on("GET", "/v1/endpoints", listed)
    terminal = Terminal("endpoint", "ls", "--watch", "--interval", "200ms")
    terminal.until(lambda text: "first" in text)
    rows[:] = [documents.endpoint(next(names))]
    terminal.until(lambda text: "second" in text)
    daemon.on("GET", "/v1/endpoints", Reply(status=504, body=b"{}"))
    terminal.until(lambda text: "Trying again." in text)
    terminal.type("\x03")
    drawn = terminal.until(lambda _drawn: False)
    assert terminal.end()[0] == exits.INTERRUPTED
    assert drawn.rindex("\033[?1049l") > drawn.rindex("\033[?25h") > drawn.rindex("\033[?25l")
    assert "Traceback" not in drawn
