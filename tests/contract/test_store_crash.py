"""No acknowledged write is lost, at whatever system call the process dies or the disk fails.

A script makes durable promises under strace, which kills it or fails a system call at the n-th of
its kind. Afterwards the data directory is opened and compared with what was acknowledged. By
default a spread of points is taken; GPUD_SWEEP=all takes every one (`scripts/sweep`).
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.sqlite.migrate import migrations
from gpud.adapters.sqlite.store import open_store
from tests.contract.store_rig import HandClock
from tests.contract.store_script import DONE, ENDED, NOT_OPENED, ROUNDS, TOGETHER

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EVERY_POINT = os.environ.get("GPUD_SWEEP") == "all"
POINTS = 4
SYSCALLS = ("fdatasync", "pwrite64", "rename")
KILLED = -signal.SIGKILL

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(7200 if EVERY_POINT else 60),
]


def run(data_dir: Path, *faults: str, mode: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script, under strace when there are faults for it."""
    script = [sys.executable, "-m", "tests.contract.store_script", str(data_dir), mode]
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *faults] if faults else []
    return subprocess.run(
        [*strace, *script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def calls(data_dir: Path, trace: Path, mode: str = "") -> dict[str, int]:
    """How often the store's thread makes each system call; strace counts by thread."""
    done = run(data_dir, "-e", f"trace={','.join(SYSCALLS)}", "-o", str(trace), mode=mode)
    assert done.returncode == DONE, done.stdout
    found = Counter(re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE))
    return {
        syscall: max(count for (_thread, name), count in found.items() if name == syscall)
        for syscall in SYSCALLS
    }


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder = tmp_path_factory.mktemp("counted")
    return calls(folder / "data", folder / "trace")


def version_of(data_dir: Path) -> int:
    """The schema version, read as the next start would; not one promise of the old store may lack."""
    with closing(sqlite3.connect(data_dir / "gpud.db")) as connection:
        pairs = connection.execute("SELECT at_ms, count(*) FROM event GROUP BY at_ms").fetchall()
        assert len(pairs) == ROUNDS * TOGETHER
        assert all(count % 2 == 0 for _at_ms, count in pairs)
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return version


def spread(count: int, *, late: bool = False) -> Iterator[int]:
    """Points from the first call to the last; most are late where much of a run makes the database."""
    if EVERY_POINT or count <= POINTS:
        yield from range(1, count + 1)
        return
    for i in range(POINTS):
        even = i * (POINTS - 1)
        yield 1 + (even * 2 - i * i if late else even) * (count - 1) // (POINTS - 1) ** 2


async def assert_kept(data_dir: Path, acknowledged: str) -> None:
    """Every acknowledged promise is there, none is half there, and the books are in order."""
    store = await open_store(data_dir, HandClock())
    try:
        events = Counter(event.at_ms for event in await store.reads.list_events(limit=1000))
        promised = {int(n) for n in re.findall(r"^ack (\d+)$", acknowledged, re.MULTILINE)}
        assert promised <= events.keys()
        assert events.keys() <= set(range(ROUNDS * TOGETHER))
        assert set(events.values()) <= {2}
        assert await store.reads.audit() == ()
    finally:
        await store.close()


def test_every_acknowledgement_waits_for_a_sync_of_its_own_batch(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    done = run(tmp_path / "data", "-e", "trace=fdatasync,write", "-o", str(trace))
    assert done.returncode == DONE
    order = re.findall(r'(fdatasync)\(\d+\) += 0|fdatasync (resumed)|write\(1, "(ack) ', trace.read_text())
    groups = re.findall(r"S+|A+", "".join("A" if ack else "S" for _sync, _resumed, ack in order))
    acknowledged = [len(group) for group in groups if group[0] == "A"]
    assert groups[0][0] == "S"
    # A slow machine may commit what belongs together in two batches; none is acknowledged with the next.
    so_far = set(itertools.accumulate(acknowledged))
    assert so_far >= {TOGETHER * (number + 1) for number in range(ROUNDS)}
    assert max(so_far) == TOGETHER * ROUNDS


@pytest.mark.parametrize("syscall", SYSCALLS)
async def test_a_kill_at_any_write_or_sync_loses_nothing_acknowledged(
    tmp_path: Path, counted: dict[str, int], syscall: str
) -> None:
    for n in spread(counted[syscall]):
        data_dir = tmp_path / f"at-{n}"
        done = run(data_dir, "-e", f"trace={syscall}", "-e", f"inject={syscall}:signal=KILL:when={n}")
        assert done.returncode == KILLED, done.stderr
        await assert_kept(data_dir, done.stdout)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("fdatasync:error=EIO:when={}", {ENDED, NOT_OPENED}),
        ("pwrite64:error=EIO:when={}", {ENDED, NOT_OPENED}),
        ("pwrite64:error=ENOSPC:when={}", {DONE}),
        ("pwrite64:error=ENOSPC:when={}+", {DONE, NOT_OPENED}),
    ],
    ids=["a sync fails", "a write fails", "one write finds the disk full", "the disk stays full"],
)
async def test_a_failing_disk_at_any_write_or_sync_loses_nothing_acknowledged(
    tmp_path: Path, counted: dict[str, int], fault: str, expected: set[int]
) -> None:
    syscall = fault.partition(":")[0]
    seen = set()
    for n in spread(counted[syscall], late=True):
        data_dir = tmp_path / f"at-{n}"
        done = run(data_dir, "-e", f"trace={syscall}", "-e", f"inject={fault.format(n)}")
        assert done.returncode in {DONE, ENDED, NOT_OPENED}, (n, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        seen.add(done.returncode)
        await assert_kept(data_dir, done.stdout)
    assert expected <= seen


async def test_a_migration_killed_at_any_write_leaves_the_old_schema_or_the_new(tmp_path: Path) -> None:
    old = tmp_path / "old"
    written = run(old)
    assert written.returncode == DONE
    shutil.copytree(old, tmp_path / "counted")
    versions = set()
    for n in spread(calls(tmp_path / "counted", tmp_path / "trace", mode="migrate")["pwrite64"]):
        data_dir = tmp_path / f"at-{n}"
        shutil.copytree(old, data_dir)
        killed = run(
            data_dir, "-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=KILL:when={n}", mode="migrate"
        )
        assert killed.returncode == KILLED
        versions.add(version_of(data_dir))
        again = run(data_dir, mode="migrate")
        assert again.returncode == DONE, again.stdout
        assert version_of(data_dir) == len(migrations()) + 1
    assert versions == {len(migrations()), len(migrations()) + 1}
