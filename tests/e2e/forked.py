"""Starts daemons as forks of one process that has gpud's modules already.

Of the second that `python -m gpud serve` takes to start most goes into imports, each time the same. The tests
start it well over a hundred times; what the daemon then does is the same, in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from typing import TYPE_CHECKING

from gpud.cli.main import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["gpud.daemon", "gpud.composition", __name__])


class ForkedProcess:
    """`gpud` with some arguments, told to do and asked as a `subprocess.Popen`.

    Args:
        arguments: Of the command line.
        cwd: Where it runs.
        log_path: Gets what it writes.
    """

    def __init__(self, arguments: Sequence[str], *, cwd: Path, log_path: Path) -> None:
        self._process = _FORKS.Process(target=_run, args=(list(arguments), str(cwd), str(log_path)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, None while it runs; a negative one is the signal that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            TimeoutError: It goes on.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} runs on after {timeout} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal while it runs."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)


def _run(arguments: list[str], cwd: str, log_path: str) -> None:
    os.setsid()
    os.chdir(cwd)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    sys.exit(run(arguments))
