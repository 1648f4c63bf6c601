"""No acknowledged job is lost, at whatever step or system call the process dies or the disk fails.

As `test_store_crash`, for jobs, their files and their webhooks. By default a spread of points is taken;
GPUD_SWEEP=all takes every one (`scripts/sweep`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.sqlite.store import open_store
from gpud.core.ids import JobId
from gpud.core.job import JobState
from gpud.core.webhook import JOBS
from gpud.ports.jobs import JobQuery
from tests.contract.crash_points import POINTS as POINTS_NAMED
from tests.contract.job_rig import begin
from tests.contract.job_script import fails, input_of
from tests.contract.store_rig import HandClock
from tests.contract.store_script import DONE, ENDED, NOT_OPENED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.adapters.sqlite.store import Store
    from gpud.core.job import Job

ROOT = Path(__file__).parents[2]
EVERY_POINT = os.environ.get("GPUD_SWEEP") == "all"
POINTS = 3
SYSCALLS = ("fsync", "fdatasync", "pwrite64", "rename")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(7200 if EVERY_POINT else 120),
]


def run(data_dir: Path, *faults: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-m", "tests.contract.job_script", str(data_dir)]
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *faults] if faults else []
    return subprocess.run(
        [*strace, *script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often one thread makes each call; strace counts by thread."""
    folder = tmp_path_factory.mktemp("counted")
    trace = folder / "trace"
    done = run(folder / "data", "-e", f"trace={','.join(SYSCALLS)}", "-o", str(trace))
    assert done.returncode == DONE, done.stdout + done.stderr
    found = Counter(re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE))
    return {
        syscall: max(count for (_thread, name), count in found.items() if name == syscall)
        for syscall in SYSCALLS
    }


def spread(count: int) -> Iterator[int]:
    if EVERY_POINT or count <= POINTS:
        yield from range(1, count + 1)
        return
    for i in range(POINTS):
        yield 1 + i * (count - 1) // (POINTS - 1)


def said(acknowledged: str, what: str) -> set[int]:
    return {int(n) for n in re.findall(rf"^{what} (\d+)\b", acknowledged, re.MULTILINE)}


async def assert_kept(data_dir: Path, acknowledged: str) -> None:
    """Every job that was acknowledged is there with its payload, and where it was said to be or further."""
    store = await open_store(data_dir, HandClock())
    try:
        at_start = await begin(store)
        jobs = {job.id: job for job in await store.jobs.page(JobQuery(limit=100))}
        ids = {int(n): JobId(id_) for n, id_ in re.findall(r"^made (\d+) (\S+)$", acknowledged, re.MULTILINE)}
        for number, id_ in ids.items():
            job = jobs[id_]
            assert await store.jobs.payload(job.seq, "input") == input_of(number)
            ends = JobState.FAILED if fails(number) else JobState.COMPLETED
            assert job.state in (JobState.IN_QUEUE, ends)
            if number in said(acknowledged, "claimed"):
                assert job.deliveries == 1
        for number in said(acknowledged, "done"):
            result = await store.jobs.payload(jobs[ids[number]].seq, "result")
            assert result is not None
            assert result.content == input_of(number).content
        for number in said(acknowledged, "done") | said(acknowledged, "failed"):
            assert jobs[ids[number]].state.terminal
        for change in at_start.given_back:
            assert (change.after.state, change.after.attempt) == (JobState.IN_QUEUE, 0)
        await assert_told(store, list(jobs.values()))
    finally:
        await store.close()


async def assert_told(store: Store, jobs: list[Job]) -> None:
    """The outbox has one message for each job that is over, and none for another."""
    told = await store.webhooks.deliveries(JOBS, limit=100)
    assert Counter(each.url for each in told) == Counter(job.webhook for job in jobs if job.state.terminal)


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What is left of processes that ended at each named point."""
    folder = tmp_path_factory.mktemp("died")
    harness = [sys.executable, "-m", "tests.contract.crash_points", str(folder)]
    done = subprocess.run(
        [*harness, *(["all"] if EVERY_POINT else [])], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(path for path in folder.iterdir() if path.is_dir())


async def test_a_death_at_any_named_point_loses_no_acknowledged_job_and_tells_of_each_end_once(
    died: list[Path],
) -> None:
    assert {path.name.rpartition("-")[0] for path in died} == {"whole", *POINTS_NAMED}
    for path in died:
        await assert_kept(path / "data", (path / "said").read_text())


@pytest.mark.parametrize("syscall", SYSCALLS)
async def test_a_kill_at_any_write_or_sync_loses_no_acknowledged_job(
    tmp_path: Path, counted: dict[str, int], syscall: str
) -> None:
    killed = 0
    for n in spread(counted[syscall]):
        data_dir = tmp_path / f"at-{n}"
        done = run(data_dir, "-e", f"trace={syscall}", "-e", f"inject={syscall}:signal=KILL:when={n}")
        # How many jobs share a commit differs from run to run, so the last points may not be reached.
        assert done.returncode in (-signal.SIGKILL, DONE), done.stderr
        killed += done.returncode == -signal.SIGKILL
        await assert_kept(data_dir, done.stdout)
    assert killed >= POINTS - 1


@pytest.mark.parametrize(
    "fault",
    [
        "fdatasync:error=EIO:when={}",
        "fsync:error=EIO:when={}",
        "pwrite64:error=EIO:when={}",
        "rename:error=EIO:when={}",
        "pwrite64:error=ENOSPC:when={}",
        "write:error=ENOSPC:when={}+",
    ],
    ids=[
        "a sync fails",
        "a file's sync fails",
        "a write fails",
        "a renaming fails",
        "one write finds the disk full",
        "files find the disk full",
    ],
)
async def test_a_failing_disk_at_any_write_or_sync_loses_no_acknowledged_job(
    tmp_path: Path, counted: dict[str, int], fault: str
) -> None:
    syscall = fault.partition(":")[0]
    for n in spread(counted.get(syscall, POINTS)):
        data_dir = tmp_path / f"at-{n}"
        # Only calls of the store: what the script writes to its standard output is left alone.
        where = ["-P", str(data_dir / "blobs")] if syscall == "write" else []
        done = run(data_dir, *where, "-e", f"trace={syscall}", "-e", f"inject={fault.format(n)}")
        assert done.returncode in {DONE, ENDED, NOT_OPENED}, (n, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        await assert_kept(data_dir, done.stdout)
