"""Dies at named points of a job's way through queue, store and outbox: `kill -9` between two steps.

Runs as `python -m tests.contract.crash_points FOLDER [all]`. It runs the script of `job_script` once, to
count how often each point is passed, then once for each point and hit, in a process of its own that ends
there at once. Each run has a folder `POINT-HIT` with `data`, and `said`, what was acknowledged. Nothing of
this is in gpud itself: a point is a function of it that is called, or has returned.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite import committer, job_calls
from gpud.adapters.sqlite.blobs import BlobFiles
from gpud.adapters.sqlite.checkpoints import Checkpointer
from gpud.adapters.sqlite.job_steps import AcceptJob, ClaimNewJob, CompleteJob
from gpud.adapters.sqlite.job_writes import JobWriter
from gpud.jobs.board import JobBoard
from gpud.jobs.queue import JobQueue
from tests.contract.job_script import main, small_log

if TYPE_CHECKING:
    from collections.abc import Callable

KILLED = 137
POINTS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "accept.file_is_kept": (BlobFiles, ("_put",), "after"),
    "accept.is_written": (AcceptJob, ("__call__", "together"), "after"),
    "accept.is_noted": (JobQueue, ("_may_be_claimed",), "after"),
    "claim.is_written": (ClaimNewJob, ("__call__", "together"), "after"),
    "claim.is_noted": (JobQueue, ("_handed_out",), "after"),
    "complete.begins": (CompleteJob, ("__call__", "together"), "before"),
    "complete.is_written": (CompleteJob, ("__call__", "together"), "after"),
    "settle.is_written": (JobWriter, ("settle",), "after"),
    "end.is_noted": (JobBoard, ("delivery_over",), "before"),
    "outbox.is_put": (job_calls, ("put_message",), "after"),
    "batch.begins": (committer, ("commit",), "before"),
    "batch.is_committed": (committer, ("commit",), "after"),
    "batch.is_told": (committer.GroupCommitter, ("_settle",), "after"),
    "checkpoint.is_done": (Checkpointer, ("run",), "after"),
}


def hook(passed: Callable[[str], None]) -> None:
    """Have `passed` called at every point."""
    for point, (owner, names, when) in POINTS.items():
        for name in names:
            _hook(point, owner, name, when, passed)


def _hook(point: str, owner: Any, name: str, when: str, passed: Callable[[str], None]) -> None:
    plain = vars(owner)[name]
    function = plain.__func__ if isinstance(plain, classmethod) else plain

    @wraps(function)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            passed(point)
        result = function(*args, **kwargs)
        if when == "after":
            passed(point)
        return result

    setattr(owner, name, classmethod(hooked) if isinstance(plain, classmethod) else hooked)


def run(folder: Path, passed: Callable[[str], None], at_end: Callable[[], None] = lambda: None) -> int:
    """Run the script in a process of its own; returns how that ended."""
    folder.mkdir()
    child = os.fork()
    if child == 0:
        said = os.open(folder / "said", os.O_CREAT | os.O_WRONLY, 0o600)
        os.dup2(said, 1)
        hook(passed)
        code = asyncio.run(main(folder / "data"))
        at_end()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def hits(count: int, *, every: bool) -> list[int]:
    """Which of so many times to die: the first and one in the middle, or all."""
    return list(range(1, count + 1)) if every else sorted({1, (count + 1) // 2})


def sweep(folder: Path, *, every: bool) -> None:
    """Die at every point."""
    counted: Counter[str] = Counter()
    record = folder / "counted"

    def note() -> None:
        record.write_text("\n".join(f"{point} {count}" for point, count in counted.items()))

    assert run(folder / "whole-0", lambda point: counted.update((point,)), note) == 0
    found = {point: int(count) for point, count in (line.split() for line in record.read_text().splitlines())}
    assert found.keys() == POINTS.keys(), f"never passed: {POINTS.keys() - found.keys()}"
    for point, count in found.items():
        for hit in hits(count, every=every):
            left = [hit]

            def die(here: str, point: str = point, left: list[int] = left) -> None:
                if here == point:
                    left[0] -= 1
                    if not left[0]:
                        os._exit(KILLED)

            ended = run(folder / f"{point}-{hit}", die)
            # How much shares a commit differs from run to run, so the last hits may not be reached.
            assert ended == KILLED or (ended == 0 and hit == count), (point, hit, ended)


if __name__ == "__main__":
    small_log()
    sweep(Path(sys.argv[1]), every="all" in sys.argv[2:])
