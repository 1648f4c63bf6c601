"""Ending a process with all of its session: real processes, and none but those."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

from gpud.adapters.process_sessions import end_session, session_members

if TYPE_CHECKING:
    from pathlib import Path

_EVERY_GROUP = "/"
"""Stands for a container's id: it is in the path of every control group."""


def _started(script: str, processes: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    deadline_s = time.monotonic() + 20
    while len(session_members(process.pid, _EVERY_GROUP)) < processes:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return process


def test_those_who_hear_the_hang_up_end_by_it_and_others_are_killed() -> None:
    hears, is_deaf = "sleep 301 & sleep 302", "trap '' HUP; sleep 303 & sleep 304; :"
    for script, hang_up_s, ends_by in ((hears, 20, -1), (is_deaf, 0.3, -9)):
        process = _started(script, 3)
        assert end_session(process.pid, _EVERY_GROUP, hang_up_s=hang_up_s)
        assert session_members(process.pid, _EVERY_GROUP) == ()
        assert process.wait(20) == ends_by


def test_stopped_processes_end_too() -> None:
    process = _started("kill -STOP $$; sleep 305", 1)
    assert end_session(process.pid, _EVERY_GROUP, hang_up_s=5)
    process.wait(20)


def test_processes_of_another_container_and_another_session_are_left_alone() -> None:
    process = _started("sleep 306", 1)
    try:
        assert session_members(process.pid, "f" * 64) == ()
        assert end_session(process.pid, "f" * 64)
        assert process.poll() is None
        assert os.getpid() not in session_members(process.pid, _EVERY_GROUP)
    finally:
        process.kill()
        process.wait(20)


def test_what_cannot_be_read_is_no_member(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "13").mkdir()
    (tmp_path / "13" / "stat").write_text("13 (x) y) S 1")
    (tmp_path / "self").mkdir()
    assert session_members(12, _EVERY_GROUP, proc=tmp_path) == ()
