"""A backup is one moment of the data, however much is written meanwhile; a restore is all or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.backups import back_up, restore
from gpud.adapters.sqlite.blobs import INLINE_BYTES_MAX
from gpud.adapters.sqlite.datadir import claim
from gpud.adapters.sqlite.restoring import DECISION_NAME, STAGED_NAME, finish
from gpud.adapters.sqlite.store import open_store
from gpud.core.backup import MANIFEST_NAME, SUMS_NAME, sums_text
from gpud.core.job import JobState
from gpud.core.job_request import JobPolicy
from gpud.core.metering import Phase
from gpud.errors import BadSettings, StoreUnusable
from gpud.jobs.queue import JobQueue
from gpud.jobs.submission import Submission
from gpud.ports.images import RegistryCredential
from gpud.ports.jobs import Payload
from tests.contract.job_rig import LLM
from tests.contract.store_rig import GPU_A, HandClock, Life
from tests.fakes.clock import SeededIds

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.adapters.sqlite.store import Store
    from gpud.core.ids import JobId

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"


def _large(number: int) -> bytes:
    return b"%d:" % number + b"x" * INLINE_BYTES_MAX


async def _submit(queue: JobQueue, number: int) -> JobId:
    asked = Submission(
        endpoint=LLM, owner="local", payload=Payload(content=_large(number)), policy=JobPolicy()
    )
    job, _ = await queue.submit(asked)
    return job.id


def _back_up(data_dir: Path, to: Path) -> None:
    back_up(data_dir, to, files={}, with_logs=False, replace_it=False)


async def _queue(store: Store, clock: HandClock) -> JobQueue:
    queue = JobQueue(store.jobs, clock, SeededIds(1))
    await queue.start()
    return queue


async def _a_life(store: Store, clock: HandClock) -> None:
    """A worker that serves: its row, its lease and its open segment."""
    life = await Life(store, clock, 1).begin()
    await life.reserve(GPU_A)
    await life.go(life.worker.state.CREATING, Phase.SETUP)


async def test_a_backup_under_load_holds_everything_that_was_acknowledged_before_it_began(
    tmp_path: Path,
) -> None:
    clock = HandClock()
    store = await open_store(tmp_path / "data", clock)
    queue = await _queue(store, clock)
    await _a_life(store, clock)
    credential = RegistryCredential(host="ghcr.io", username="u", password=PASSWORD)
    await store.access.put_registry("ghcr", credential, 1)
    before = [await _submit(queue, number) for number in range(6)]
    running = await queue.claim(LLM, "wk_a")
    assert running is not None
    done, made = asyncio.Event(), 0

    async def load() -> None:
        nonlocal made
        while not done.is_set():
            await _submit(queue, 100 + made)
            made += 1

    loading = asyncio.create_task(load())
    try:
        await asyncio.to_thread(_back_up, tmp_path / "data", tmp_path / "b.tar")
    finally:
        done.set()
        await loading
    await store.close()
    assert made

    restored = restore(tmp_path / "b.tar", tmp_path / "other")
    assert restored.aside == ""
    store = await open_store(tmp_path / "other", clock)
    try:
        assert {segment.worker_id for segment in (await store.fleet.load_fleet()).open_segments}
        assert await store.access.registry("ghcr") == credential
        queue = await _queue(store, clock)  # the normal start: what was running waits again
        for number, job_id in enumerate(before):
            job = await store.jobs.job(job_id)
            assert job is not None
            assert job.state is JobState.IN_QUEUE
            payload = await store.jobs.payload(job.seq, "input")
            assert payload is not None
            assert payload.content == _large(number)
    finally:
        await store.close()
    _check_whole(tmp_path / "other")


def _check_whole(data_dir: Path) -> str:
    """Every payload that the database refers to is there and is what its name says; tells the install."""
    with closing(sqlite3.connect(data_dir / "gpud.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        refs = [ref for (ref,) in database.execute("SELECT ref FROM job_payload WHERE ref IS NOT NULL")]
        install_id: str = database.execute("SELECT install_id FROM install").fetchone()[0]
    for ref in refs:
        content = (data_dir / "blobs" / ref[:2] / ref).read_bytes()
        assert hashlib.sha256(content).hexdigest() == ref
    return install_id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data directories of different installations, `old` and `new`, and `new.tar` of the second."""
    folder = tmp_path_factory.mktemp("made")

    async def make(name: str, first: int) -> None:
        clock = HandClock()
        store = await open_store(folder / name, clock)
        queue = await _queue(store, clock)
        for number in range(first, first + 2):
            await _submit(queue, number)
        await store.close()

    asyncio.run(make("old", 1))
    asyncio.run(make("new", 11))
    _back_up(folder / "new", folder / "new.tar")
    return folder


def test_a_restore_that_is_killed_leaves_the_old_or_the_new_and_nothing_between(
    made: Path, tmp_path: Path
) -> None:
    paths = map(str, (made / "new.tar", made / "old", tmp_path))
    script = [sys.executable, "-m", "tests.contract.restore_script", *paths]
    ran = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == 0, ran.stderr
    ids = {name: _check_whole(made / name) for name in ("old", "new")}
    keys = {name: (made / name / "master.key").read_bytes() for name in ids}
    became = []
    for step in range(1, int(ran.stdout) + 1):
        here = tmp_path / str(step)
        decided = (here / DECISION_NAME).exists()
        lock = claim(here)
        finish(here)
        lock.release()
        (now,) = [name for name, install_id in ids.items() if install_id == _check_whole(here)]
        assert (here / "master.key").read_bytes() == keys[now]
        assert now == "new" or not decided
        assert not (here / "gpud.db-wal").exists() or now == "old"
        became.append(now)
    assert became == sorted(became, reverse=True), "once it is the new one it stays so"
    assert {*became} == {"old", "new"}


def test_what_was_there_is_kept_aside_and_a_second_restore_starts_clean(made: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(made / "old", data)
    (data / STAGED_NAME).mkdir()
    (data / STAGED_NAME / "gpud.db").write_bytes(b"left by an attempt that was killed")
    done = restore(made / "new.tar", data)
    assert _check_whole(data) == _check_whole(made / "new")
    assert _check_whole(Path(done.aside)) == _check_whole(made / "old")
    assert not (data / STAGED_NAME).exists()


async def test_the_daemon_finishes_a_restore_that_was_decided(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copytree(made / "old", folder / "data")
    staged = folder / "data" / STAGED_NAME
    shutil.copytree(made / "new", staged)
    (staged / "lock").unlink()
    (folder / "data/aside").mkdir()
    decision = {"new": ["blobs", "gpud.db", "master.key"], "old": ["blobs", "gpud.db", "master.key"]}
    (folder / "data" / DECISION_NAME).write_text(json.dumps({**decision, "aside": "aside"}))
    store = await open_store(folder / "data", HandClock())
    assert store.install_id == _check_whole(made / "new")
    await store.close()


def test_nothing_is_restored_over_a_running_daemon(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "old", tmp_path / "data")
    lock = claim(tmp_path / "data")
    with pytest.raises(StoreUnusable, match="Stop it first"):
        restore(made / "new.tar", tmp_path / "data")
    lock.release()
    assert _check_whole(tmp_path / "data") == _check_whole(made / "old")


Members = dict[str, bytes]


def _read(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}


def _write(path: Path, members: Members, *, sums: bool = True) -> None:
    if sums:
        listed = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
        listed.pop(SUMS_NAME, None)
        members = {**members, SUMS_NAME: sums_text(listed).encode()}
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _manifest_with(members: Members, **changes: object) -> Members:
    document = {**json.loads(members[MANIFEST_NAME]), **changes}
    return {**members, MANIFEST_NAME: json.dumps(document).encode()}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m: _manifest_with(m, schema=9999), "schema 9999"),
        (lambda m: _manifest_with(m, format=2), "format is 2"),
        (lambda m: _manifest_with(m, schema="10"), "manifest is damaged"),
        (lambda m: _manifest_with(m, install_id="other"), "not the one that its manifest tells of"),
        (lambda m: {**m, "../evil": b"x"}, "does not belong"),
        (lambda m: {**m, "/etc/passwd": b"x"}, "does not belong"),
        (lambda m: {**m, "lock": b"1"}, "does not belong"),
        (lambda m: {**m, "gpud.db": m["gpud.db"][:-4096]}, "damaged"),
        (lambda m: {**m, "gpud.db": b"SQLite format 3\0" + b"\0" * 500}, ""),
        (lambda m: {**m, "master.key": b"k" * 32}, "not the one"),
        (lambda m: {name: m[name] for name in m if name != MANIFEST_NAME}, "begins with"),
    ],
)
def test_what_is_not_a_backup_for_this_gpud_is_refused_before_anything_changes(
    change: Callable[[Members], Members], word: str, made: Path, tmp_path: Path
) -> None:
    _write(tmp_path / "bad.tar", change(_read(made / "new.tar")))
    _refused(tmp_path, made, word)


def _refused(tmp_path: Path, made: Path, word: str) -> None:
    shutil.copytree(made / "old", tmp_path / "data")
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    with pytest.raises(BadSettings) as caught:
        restore(tmp_path / "bad.tar", tmp_path / "data")
    assert word in caught.value.detail
    assert "Nothing was changed" in caught.value.detail
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names
    assert _check_whole(tmp_path / "data") == _check_whole(made / "old")


@pytest.mark.parametrize("name", ["gpud.db", "master.key", MANIFEST_NAME])
def test_one_changed_byte_is_found(name: str, made: Path, tmp_path: Path) -> None:
    members = _read(made / "new.tar")
    content = bytearray(members[name])
    content[-2] ^= 1
    _write(tmp_path / "bad.tar", {**members, name: bytes(content)}, sums=False)
    _refused(tmp_path, made, "")


@pytest.mark.parametrize("share", [0.3, 0.98])
def test_half_a_backup_is_found(share: float, made: Path, tmp_path: Path) -> None:
    content = (made / "new.tar").read_bytes()
    (tmp_path / "bad.tar").write_bytes(content[: int(len(content) * share)])
    _refused(tmp_path, made, "")


def test_a_link_in_a_backup_is_refused(made: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for name, content in list(_read(made / "new.tar").items())[:1]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("gpud.db")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(link)
    _refused(tmp_path, made, "does not belong")


def test_a_backup_is_closed_to_others_and_replaces_nothing_unasked(made: Path, tmp_path: Path) -> None:
    to = tmp_path / "b.tar"
    _back_up(made / "new", to)
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    with pytest.raises(BadSettings, match="--force"):
        _back_up(made / "new", to)
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]
    assert not list((made / "new").glob(".backup-*"))
    with pytest.raises(BadSettings, match="no database"):
        _back_up(tmp_path, tmp_path / "c.tar")


def test_a_payload_that_is_gone_is_named_and_the_rest_is_backed_up(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "new", tmp_path / "data")
    lost, rotten = sorted((tmp_path / "data/blobs").glob("??/*"))[:2]
    lost.unlink()
    rotten.write_bytes(b"rotten")
    done = back_up(tmp_path / "data", tmp_path / "b.tar", files={}, with_logs=False, replace_it=False)
    assert set(done.manifest.flawed_payloads) == {lost.name, rotten.name}
    restore(tmp_path / "b.tar", tmp_path / "other")


def test_logs_and_files_from_elsewhere_come_along_and_are_put_nowhere(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "new", tmp_path / "data")
    log = tmp_path / "data/logs/llm/1-wk_a/0001.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line\n")
    (tmp_path / "data/logs/my notes.txt").write_text("of a person, under a name that no restore takes\n")
    (tmp_path / "gpud.toml").write_text("[log]\n")
    files = {"gpud.toml": tmp_path / "gpud.toml"}
    back_up(tmp_path / "data", tmp_path / "b.tar", files=files, with_logs=True, replace_it=False)
    done = restore(tmp_path / "b.tar", tmp_path / "other")
    assert (tmp_path / "other/logs/llm/1-wk_a/0001.log").read_text() == "a line\n"
    assert (Path(done.files) / "gpud.toml").read_text() == "[log]\n"
    assert done.manifest.files == {"gpud.toml": str(tmp_path / "gpud.toml")}


@pytest.mark.parametrize("decided", [False, True])
def test_a_restore_that_is_interrupted_leaves_the_old_or_the_new(
    decided: bool, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "old", tmp_path / "data")
    plain = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if to.name != DECISION_NAME:
            return plain(path, to)
        if decided:
            plain(path, to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            restore(made / "new.tar", tmp_path / "data")
    finish(tmp_path / "data")
    assert _check_whole(tmp_path / "data") == _check_whole(made / ("new" if decided else "old"))
    assert not (tmp_path / "data" / STAGED_NAME).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_restores_belongs_to_the_daemons_user(made: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 12_345, 12_345)
    restore(made / "new.tar", data)
    _back_up(data, tmp_path / "again.tar")
    assert {path.stat().st_uid for path in data.rglob("*")} == {12_345}
