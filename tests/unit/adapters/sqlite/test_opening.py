"""Opening a data directory: what is made, and what is refused with which words."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from gpud.adapters.sqlite.connection import sqlite_warning
from gpud.adapters.sqlite.datadir import claim, file_system_of, refuse_network_file_system
from gpud.adapters.sqlite.store import open_store
from gpud.errors import StoreUnusable
from tests.contract.store_rig import HandClock

ROOT = Path(__file__).parents[4]
DAEMON = textwrap.dedent(
    """
    import asyncio, os, pathlib, sys
    from gpud.adapters.sqlite.store import open_store
    from gpud.errors import GpudError
    from tests.contract.store_rig import HandClock

    async def main():
        try:
            store = await open_store(pathlib.Path(sys.argv[1]), HandClock())
        except GpudError as error:
            print("refused", error.detail, flush=True)
            return
        print("open", flush=True)
        sys.stdin.readline()
        await store.close()

    asyncio.run(main())
    """
)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def make(data_dir: Path) -> Path:
    """Make a data directory as a first start does; returns its database."""
    store = await open_store(data_dir, HandClock())
    await store.close()
    return data_dir / "gpud.db"


def contents(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.name != "lock"}


def modes(data_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in (data_dir, *data_dir.iterdir())}


async def refusal(data_dir: Path) -> str:
    """Open, expect to be refused, and see that not a byte was changed."""
    before = contents(data_dir)
    with pytest.raises(StoreUnusable) as caught:
        await open_store(data_dir, HandClock())
    assert contents(data_dir) == before
    return caught.value.detail


def daemon(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(data_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(("open", "refused")):
            return line
    return ""


async def test_a_new_directory_and_its_files_are_for_their_owner_alone(data_dir: Path) -> None:
    store = await open_store(data_dir, HandClock())
    try:
        assert modes(data_dir) == {
            "data": 0o700,
            "gpud.db": 0o600,
            "gpud.db-shm": 0o600,
            "gpud.db-wal": 0o600,
            "lock": 0o600,
            "master.key": 0o600,
        }
    finally:
        await store.close()
    assert set(modes(data_dir)) == {"data", "gpud.db", "lock", "master.key"}


async def test_the_writing_connection_is_set_up_for_durability(data_dir: Path) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "journal_size_limit": 64 << 20,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "auto_vacuum": 2,
    }
    store = await open_store(data_dir, HandClock())
    try:
        found = await store._committer.write(
            lambda connection: {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}
        )
    finally:
        await store.close()
    assert found == expected


async def test_a_second_daemon_is_refused_at_once_and_told_who_is_there(data_dir: Path) -> None:
    first = daemon(data_dir)
    with first:
        assert said(first) == "open\n"
        second = daemon(data_dir)
        with second:
            answer = said(second)
        assert answer.startswith(f"refused Another gpud (process {first.pid}) uses {data_dir}.")
        assert "paths.data_dir" in answer
        with pytest.raises(StoreUnusable, match=f"process {first.pid}"):
            await open_store(data_dir, HandClock())
        assert first.stdin is not None
        first.stdin.write("\n")
        first.stdin.close()
        assert first.wait(10) == 0
    await make(data_dir)


def test_a_daemon_that_dies_with_its_store_open_does_end(data_dir: Path) -> None:
    dying = DAEMON.replace('print("open", flush=True)', "raise SystemExit(7)")
    process = subprocess.run(
        [sys.executable, "-c", dying, str(data_dir)], cwd=ROOT, capture_output=True, check=False, timeout=20
    )
    assert process.returncode == 7


async def test_a_killed_daemon_leaves_the_directory_free(data_dir: Path) -> None:
    first = daemon(data_dir)
    with first:
        assert said(first) == "open\n"
        first.kill()
        first.wait(10)
    await make(data_dir)


async def test_a_refused_opening_gives_the_directory_back(data_dir: Path) -> None:
    database = await make(data_dir)
    whole = database.read_bytes()
    database.write_bytes(b"")
    with pytest.raises(StoreUnusable):
        await open_store(data_dir, HandClock())
    database.write_bytes(whole)
    await make(data_dir)


async def test_an_empty_file_is_not_taken_for_a_new_database(data_dir: Path) -> None:
    (await make(data_dir)).write_bytes(b"")
    assert "is damaged: it is empty. gpud changes nothing in it." in await refusal(data_dir)


async def test_a_file_that_is_no_database_is_refused(data_dir: Path) -> None:
    (await make(data_dir)).write_bytes(b"To whom it may concern\n" * 500)
    assert "is damaged: file is not a database." in await refusal(data_dir)


async def test_a_truncated_database_is_refused(data_dir: Path) -> None:
    database = await make(data_dir)
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    assert "is damaged: " in await refusal(data_dir)


async def test_a_database_with_a_scribbled_page_is_refused(data_dir: Path) -> None:
    database = await make(data_dir)
    scribbled = bytearray(database.read_bytes())
    scribbled[8192:12288] = os.urandom(4096)
    database.write_bytes(bytes(scribbled))
    assert "is damaged: " in await refusal(data_dir)


async def test_another_programs_database_is_refused(data_dir: Path) -> None:
    database = await make(data_dir)
    database.unlink()
    with closing(sqlite3.connect(database)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("PRAGMA application_id = 305419896")
    assert "is another program's database (application id 0x12345678)" in await refusal(data_dir)


async def test_a_database_of_a_newer_gpud_is_refused(data_dir: Path) -> None:
    database = await make(data_dir)
    with closing(sqlite3.connect(database)) as newer:
        newer.execute("PRAGMA user_version = 77")
    assert "was written by a newer gpud (schema 77, this one knows" in await refusal(data_dir)


async def test_a_database_missing_beside_its_log_is_not_made_anew(data_dir: Path) -> None:
    database = await make(data_dir)
    database.unlink()
    (data_dir / "gpud.db-wal").write_bytes(b"log")
    assert "is missing but its write-ahead log gpud.db-wal is there" in await refusal(data_dir)


async def test_what_a_first_start_left_half_made_is_made_again(data_dir: Path) -> None:
    os.mkdir(data_dir)  # noqa: PTH102 - nothing else runs in this loop
    (data_dir / "gpud.db.new").write_bytes(b"half")
    (data_dir / "gpud.db.new-journal").write_bytes(b"half")
    (data_dir / "master.key.new").write_bytes(b"half")
    await make(data_dir)
    assert set(contents(data_dir)) == {"gpud.db", "master.key"}


@pytest.mark.parametrize("content", [b"", b"short", b"z" * 64], ids=["empty", "short", "not hex"])
async def test_a_master_key_that_is_none_is_refused(data_dir: Path, content: bytes) -> None:
    await make(data_dir)
    (data_dir / "master.key").write_bytes(content)
    with pytest.raises(StoreUnusable, match="must be 32 bytes or 64 hex digits"):
        await open_store(data_dir, HandClock())


async def test_a_master_key_kept_elsewhere_is_used_and_never_made(data_dir: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "credential"
    with pytest.raises(StoreUnusable, match="cannot be read"):
        await open_store(data_dir, HandClock(), master_key_path=elsewhere)
    elsewhere.write_bytes(b"k" * 32)
    store = await open_store(data_dir, HandClock(), master_key_path=elsewhere)
    await store.close()
    assert not (data_dir / "master.key").exists()


async def test_a_place_where_no_directory_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="cannot be made ready"):
        await open_store(tmp_path / "file" / "data", HandClock())


def test_a_lock_that_is_a_symlink_is_refused(data_dir: Path, tmp_path: Path) -> None:
    data_dir.mkdir()
    (data_dir / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        claim(data_dir)
    assert not (tmp_path / "elsewhere").exists()


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
35 21 0:30 / /srv rw - nfs4 server:/export rw
36 35 8:2 / /srv/local rw - xfs /dev/sdb1 rw
37 21 0:31 / /with\\040space rw shared:2 master:1 - fuse.sshfs host: rw
38 21 8:3 / /twice rw - ext4 /dev/sdc1 rw
39 21 0:32 / /twice rw - cifs //host/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/gpud", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/gpud", "nfs4"),
        ("/srv/local/gpud", "xfs"),
        ("/srvlocal", "ext4"),
        ("/with space/gpud", "fuse.sshfs"),
        ("/twice/gpud", "cifs"),
    ],
)
def test_the_file_system_of_a_directory_is_found(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


def test_a_network_file_system_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = MOUNTS + f"40 21 0:33 / {tmp_path} rw - nfs4 server:/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_kwargs: table)
    with pytest.raises(StoreUnusable, match=r"on a network file system \(nfs4\)"):
        refuse_network_file_system(tmp_path)


@pytest.mark.parametrize(
    ("version", "faulty"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 44, 9), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_sqlite_versions_with_the_log_fault_are_told(version: tuple[int, int, int], faulty: bool) -> None:
    assert (sqlite_warning(version) is not None) == faulty
