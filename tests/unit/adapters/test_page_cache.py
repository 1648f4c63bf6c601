from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.page_cache import FilePageCache
from gpud.adapters.threads import Threads
from gpud.core.endpoint import PinnedImage
from gpud.core.ids import Revision, WorkerId
from gpud.core.page_cache import FileSet
from tests.fakes.images import FakeImages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REVISION = Revision("0" * 12)
WORKER = WorkerId("wk_0000000000000001")
IMAGE = PinnedImage(reference="a/b:1", pin="a/b@sha256:1")
SIZE = 4 << 20


class LayeredImages(FakeImages):
    """Images whose layers lie in a folder."""

    def __init__(self, layer: Path) -> None:
        super().__init__()
        self._layer = layer

    async def layer_dirs(self, image: PinnedImage) -> tuple[str, ...]:  # noqa: ARG002 - the port's signature
        return (str(self._layer),)


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    threads = Threads(2)
    yield threads
    await threads.close()


def write_evicted(path: Path) -> None:
    path.write_bytes(os.urandom(SIZE))
    evict(path)


def evict(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


async def test_what_a_start_read_is_recorded_and_read_again(tmp_path: Path, threads: Threads) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    read, unread = layer / "read", layer / "unread"
    for path in (read, unread):
        write_evicted(path)
    (layer / "link").symlink_to(unread)
    cache = FilePageCache(LayeredImages(layer), threads, folder=tmp_path / "reads", volume_roots=())
    assert not cache.has_record(REVISION)
    read.read_bytes()
    noted = await cache.record(REVISION, IMAGE, budget_bytes=1 << 30, worker_id=WORKER)
    if noted.files == 2:
        pytest.skip("this file system keeps pages that were given up")
    assert (noted.files, noted.bytes_done, noted.why_not, noted.by) == (1, SIZE, "", "resident")
    assert cache.has_record(REVISION)
    evict(read)
    done = await cache.replay(REVISION, (), budget_bytes=SIZE // 2)
    assert (done.files, done.bytes_done) == (1, SIZE // 2)
    cache.forget(but=frozenset())
    assert not cache.has_record(REVISION)


async def test_files_of_volumes_are_read_by_pattern_and_never_outside_the_allowed_roots(
    tmp_path: Path, threads: Threads
) -> None:
    models, secret = tmp_path / "models", tmp_path / "secret"
    (models / "a").mkdir(parents=True)
    for path in (models / "a/weights.safetensors", models / "notes.txt", secret):
        path.write_bytes(b"x" * 100)
    (models / "a/stolen.safetensors").symlink_to(secret)
    cache = FilePageCache(FakeImages(), threads, folder=tmp_path / "reads", volume_roots=(models,))
    sets = (FileSet(root=str(models), pattern="**/*.safetensors"), FileSet(root="named", pattern="*"))
    done = await cache.replay(REVISION, sets, budget_bytes=1 << 30)
    assert (done.files, done.bytes_done) == (1, 100)


async def test_no_more_is_read_ahead_than_the_budget_and_the_memory_of_the_box_allow(
    tmp_path: Path, threads: Threads
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for number in range(4):
        (models / f"{number}.bin").write_bytes(b"x" * 1000)
    room = 10_000
    cache = FilePageCache(
        FakeImages(), threads, folder=tmp_path, volume_roots=(models,), room_bytes=lambda: room
    )
    sets = (FileSet(root=str(models), pattern="*"),)
    done = await cache.replay(REVISION, sets, budget_bytes=2500)
    assert (done.files, done.bytes_done, done.left_out_bytes) == (3, 2500, 1500)
    room = 1000
    done = await cache.replay(REVISION, sets, budget_bytes=2500)
    assert (done.files, done.bytes_done, done.left_out_bytes) == (1, 1000, 3000)
    room = 0
    done = await cache.replay(REVISION, sets, budget_bytes=2500)
    assert (done.bytes_done, done.left_out_bytes) == (0, 4000)
    assert "no memory to spare" in done.why_not


async def test_a_start_that_cannot_be_watched_is_recorded_from_what_is_in_memory(
    tmp_path: Path, threads: Threads
) -> None:
    """The process named has the root of this machine, where it would hear of everybody."""
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "file").write_bytes(b"x" * 100)
    cache = FilePageCache(LayeredImages(layer), threads, folder=tmp_path / "reads", volume_roots=())
    await cache.watch(WORKER)
    await cache.attach(WORKER, os.getpid())
    noted = await cache.record(REVISION, IMAGE, budget_bytes=1 << 30, worker_id=WORKER)
    assert (noted.files, noted.bytes_done, noted.by) == (1, 4096, "resident")


async def test_an_engine_that_does_not_tell_where_its_layers_are_is_named(
    tmp_path: Path, threads: Threads
) -> None:
    cache = FilePageCache(FakeImages(), threads, folder=tmp_path / "reads", volume_roots=())
    noted = await cache.record(REVISION, IMAGE, budget_bytes=1, worker_id=WORKER)
    assert "does not tell" in noted.why_not
    assert not cache.has_record(REVISION)
