"""A disk that fills up refuses writes in so many words, loses nothing, and is usable again when emptied."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.sqlite.store import open_store
from gpud.core.records import EventRecorded
from gpud.errors import StorageFull
from gpud.ports.images import RegistryCredential
from tests.contract.store_rig import HandClock, Life

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store

DISK_MIB = 8
CREDENTIAL = RegistryCredential(host="h", username="u", password="p" * 5000)
FACTS: dict[str, object] = {"text": "x" * 2000}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[Path]:
    place.mkdir()
    mounted = subprocess.run(["mount", *arguments, str(place)], check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not let tests mount a disk: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A whole file system of a few MiB."""
    if request.param == "tmpfs":
        with _mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs") as place:
            yield place
        return
    if shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, env=environment)
    with _mounted(tmp_path / "disk", "-o", "loop", str(image)) as place:
        yield place


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size_bytes in (65_536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size_bytes)
        with suppress(OSError):
            os.fsync(file.fileno())
    return filler


async def write(store: Store, n: int) -> str:
    try:
        await store.fleet.record([EventRecorded(kind="a.b", at_ms=n, facts=FACTS)])
    except StorageFull:
        return "full"
    return "written"


async def recorded(store: Store) -> list[int]:
    found: list[int] = []
    after_seq = 0
    while page := await store.reads.list_events(after_seq=after_seq, limit=1000):
        found += [event.at_ms for event in page]
        after_seq = page[-1].seq
    return found


async def test_a_full_disk_refuses_writes_and_an_emptied_one_takes_them_again(disk: Path) -> None:
    store = await open_store(disk / "data", HandClock())
    written = []
    try:
        for n in range(50):
            assert await write(store, n) == "written"
            written.append(n)
        filler = fill(disk)
        outcomes = await asyncio.gather(*(write(store, n) for n in range(50, 4050)))
        written += [n for n, outcome in zip(range(50, 4050), outcomes, strict=True) if outcome == "written"]
        assert outcomes[-1] == "full"
        with pytest.raises(
            StorageFull, match=r"is full, so nothing was written\. Free some space; gpud goes on"
        ):
            await store.fleet.record([EventRecorded(kind="a.b", at_ms=4050, facts=FACTS)])
        with pytest.raises(StorageFull):
            await Life(store, HandClock(), 1).begin()
        with pytest.raises(StorageFull):
            await store.access.put_registry("home", CREDENTIAL, 1)
        assert not store.failed.done()
        assert await recorded(store) == written
        filler.unlink()
        for n in range(5000, 5050):
            assert await write(store, n) == "written"
            written.append(n)
        assert await store.reads.audit() == ()
    finally:
        await store.close()
    store = await open_store(disk / "data", HandClock())
    try:
        assert await recorded(store) == written
        assert await store.reads.audit() == ()
    finally:
        await store.close()


async def test_a_store_whose_disk_fills_up_and_empties_again_and_again_stays_whole(disk: Path) -> None:
    store = await open_store(disk / "data", HandClock())
    written: list[int] = []
    try:
        for turn in range(4):
            numbers = range(turn * 1000, turn * 1000 + 400)
            filler = fill(disk) if turn % 2 else None
            outcomes = [await write(store, n) for n in numbers]
            written += [n for n, outcome in zip(numbers, outcomes, strict=True) if outcome == "written"]
            assert ("full" in outcomes) == (filler is not None)
            if filler is not None:
                filler.unlink()
        assert not store.failed.done()
        assert await recorded(store) == written
        assert await store.reads.audit() == ()
    finally:
        await store.close()


async def test_a_store_closed_on_a_full_disk_opens_again_with_everything(disk: Path) -> None:
    store = await open_store(disk / "data", HandClock())
    for n in range(300):
        assert await write(store, n) == "written"
    filler = fill(disk)
    await store.close()
    filler.unlink()
    store = await open_store(disk / "data", HandClock())
    try:
        assert await recorded(store) == list(range(300))
    finally:
        await store.close()


async def test_a_first_start_on_a_full_disk_is_refused_and_leaves_nothing_half_made(disk: Path) -> None:
    filler = fill(disk)
    with pytest.raises(StorageFull, match="Free some space"):
        await open_store(disk / "data", HandClock())
    filler.unlink()
    store = await open_store(disk / "data", HandClock())
    try:
        assert await write(store, 1) == "written"
    finally:
        await store.close()
