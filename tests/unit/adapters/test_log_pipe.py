"""One container's output on its way into its log, with the clock in the test's hands."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

from gpud.adapters import log_pipe
from gpud.adapters.log_files import LogFile, LogFolder
from gpud.adapters.log_pipe import Pipe
from gpud.adapters.log_sources import FileSource
from gpud.core.redaction import Redactor
from tests.unit.adapters.test_log_capture import CAPS, WORKER

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SECRET = "hunter2-hunter2"


def _entries(*texts: str) -> bytes:
    stamp = "2026-11-22T05:22:16.504138921Z"
    return b"".join(
        json.dumps({"log": text, "stream": "stdout", "time": stamp}, separators=(",", ":")).encode() + b"\n"
        for text in texts
    )


def test_a_line_whose_end_is_dropped_is_marked_and_not_joined_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(log_pipe, "time", SimpleNamespace(monotonic=lambda: now.s, time_ns=time.time_ns))
    written = tmp_path / "container.log"
    written.write_bytes(b"")
    folder = LogFolder(path=tmp_path / "log", endpoint="llm", number=1, worker_id=WORKER)
    file = LogFile(folder, segment_bytes=1 << 20, rotated=lambda _: None)
    caps = replace(CAPS, rate_bytes_per_s=1000, burst_bytes=1)
    pipe = Pipe(file, caps, Redactor((SECRET,)))
    pipe.take_source(FileSource(written))
    for texts, at_s in (
        (("whole\n", f"the head of a long line {'x' * 100} {SECRET[:8]}"), 0.0),
        ((f"{SECRET[8:]} goes on", " to its end\n"), 0.0),
        (("next\n",), 3600.0),
    ):
        now.s = at_s
        with written.open("ab") as out:
            out.write(_entries(*texts))
        assert pipe.turn()
    pipe.close(over=True)
    (log,) = (tmp_path / "log").glob("*.log")
    lines = [line.split(" ", 2)[1:] for line in log.read_text().splitlines()]
    assert [stream for stream, _ in lines] == ["stdout", "stdout", "gpud", "stdout"]
    assert lines[0][1] == "whole"
    assert lines[1][1].startswith("the head of a long")
    assert lines[1][1].endswith(" [the rest was dropped]")
    assert "hunter" not in lines[1][1], "what may be the beginning of a secret is left out"
    assert lines[2][1].startswith("worker.log_dropped")
    assert lines[3][1] == "next"
