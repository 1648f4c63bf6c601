"""Records what a start left in the page cache, and brings it there again ahead of the next one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gpud.adapters.fanotify import obstacle
from gpud.adapters.opened_files import OpenedFiles
from gpud.core.page_cache import within_budget
from gpud.errors import GpudError
from gpud.ports.page_cache import CacheWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gpud.adapters.threads import Threads
    from gpud.core.endpoint import PinnedImage
    from gpud.core.ids import Revision, WorkerId
    from gpud.core.page_cache import FileSet
    from gpud.ports.images import ImageStore

log = structlog.get_logger(__name__)

_CHILD = "gpud.adapters.page_cache_child"
_LIMIT_S = 120.0
_FILES_MAX = 100_000


class FilePageCache:
    """The `PageCache` of this machine, for an engine that keeps its images on it.

    An image's files are looked at where the engine keeps its layers, which needs the rights to read
    there (root); files of volumes need the right to read these.

    Args:
        images: Tells where layers are.
        threads: For what touches the disk here.
        folder: Keeps the records.
        volume_roots: Host paths below which volumes may be.
        room_bytes: Memory that this box has to spare.
    """

    def __init__(
        self,
        images: ImageStore,
        threads: Threads,
        *,
        folder: Path,
        volume_roots: Sequence[Path],
        room_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._images = images
        self._threads = threads
        self._folder = folder
        self._roots = tuple(volume_roots)
        self._one = asyncio.Lock()
        self._room_bytes = room_bytes or available_bytes
        self._opened = OpenedFiles()
        self._blind = obstacle()

    def has_record(self, revision: Revision) -> bool:
        """Whether it is known what a start of this revision reads."""
        return self._file_of(revision).exists()

    def forget(self, *, but: frozenset[Revision]) -> None:
        """Drop the records of all revisions but these."""
        for file in self._folder.glob("*.json"):
            if file.stem not in but:
                file.unlink(missing_ok=True)

    async def watch(self, worker_id: WorkerId) -> None:
        """Get ready to see which files a start opens, where the kernel tells that."""
        if not self._blind:
            await self._opened.prepare(worker_id)

    async def attach(self, worker_id: WorkerId, pid: int) -> None:
        """From now on see what it opens."""
        if why := await self._opened.attach(worker_id, pid):
            log.info("image.start_unwatched", worker=worker_id, error=why)

    async def unwatch(self, worker_id: WorkerId) -> None:
        """Its start is not recorded after all."""
        await self._opened.drop(worker_id)

    async def record(
        self, revision: Revision, image: PinnedImage, *, budget_bytes: int, worker_id: WorkerId
    ) -> CacheWork:
        """Note which parts of an image's files a start read: of those it opened, or else of all in memory."""
        try:
            return await self._record(revision, image, budget_bytes, worker_id)
        finally:
            await self._opened.drop(worker_id)

    async def _record(
        self, revision: Revision, image: PinnedImage, budget_bytes: int, worker_id: WorkerId
    ) -> CacheWork:
        try:
            layers = await self._images.layer_dirs(image)
        except GpudError as error:
            return CacheWork(why_not=error.detail)
        if not layers:
            return CacheWork(why_not="the engine does not tell where it keeps the layers of this image")
        if not all(os.access(layer, os.R_OK | os.X_OK) for layer in layers):
            return CacheWork(why_not=f"gpud may not read {layers[0]}; only root may")
        by, found = "opened", await self._opened.ranges(worker_id, layers)
        if not found:
            by, found = "resident", await self._ask({"roots": list(layers)})
        if not isinstance(found, list):
            return CacheWork(why_not=str(found))
        read = [(path, offset, length) for path, offset, length in found]
        ranges = within_budget(read, budget_bytes)
        await self._threads.run(self._write, revision, ranges)
        files, done, whole = len({path for path, _, _ in ranges}), _bytes_of(ranges), _bytes_of(read)
        return CacheWork(files=files, bytes_done=done, left_out_bytes=whole - done, by=by)

    async def replay(
        self, revision: Revision, file_sets: tuple[FileSet, ...], *, budget_bytes: int
    ) -> CacheWork:
        """Ask the disk for what was recorded, and for these files after it."""
        meant = await self._threads.run(self._ranges, revision, file_sets)
        if not meant:
            return CacheWork(why_not="nothing was recorded and no file is meant")
        ranges = within_budget(meant, min(budget_bytes, self._room_bytes()))
        left_out_bytes = _bytes_of(meant) - _bytes_of(ranges)
        if not ranges:
            return CacheWork(left_out_bytes=left_out_bytes, why_not="this box has no memory to spare for it")
        done = await self._ask({"ranges": ranges})
        if not isinstance(done, dict):
            return CacheWork(why_not=str(done))
        return CacheWork(files=done["files"], bytes_done=done["bytes"], left_out_bytes=left_out_bytes)

    def _file_of(self, revision: Revision) -> Path:
        return self._folder / f"{revision}.json"

    def _write(self, revision: Revision, ranges: list[tuple[str, int, int]]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        new = self._file_of(revision).with_suffix(".new")
        new.write_text(json.dumps(ranges), encoding="utf-8")
        new.replace(self._file_of(revision))

    def _ranges(self, revision: Revision, file_sets: tuple[FileSet, ...]) -> list[tuple[str, int, int]]:
        try:
            recorded = json.loads(self._file_of(revision).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            recorded = []
        ranges = [(str(path), int(offset), int(length)) for path, offset, length in recorded]
        ranges += [(str(path), 0, path.stat().st_size) for path in self._files(file_sets)]
        return ranges

    def _files(self, file_sets: tuple[FileSet, ...]) -> Iterator[Path]:
        """Files that patterns mean, none outside the volume roots wherever its links lead."""
        roots = [root.resolve() for root in self._roots]
        left = _FILES_MAX
        for each in file_sets:
            root = Path(each.root)
            if not root.is_absolute():
                continue  # A named volume is the engine's own.
            for path in sorted(root.glob(each.pattern)):
                left -= 1
                if left < 0:
                    return
                real = path.resolve()
                if real.is_file() and any(real.is_relative_to(allowed) for allowed in roots):
                    yield real

    async def _ask(self, question: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """The child's answer; a sentence when it gave none."""
        async with self._one:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", _CHILD),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(_LIMIT_S):
                    output, _ = await process.communicate(json.dumps(question).encode())
                return json.loads(output) if process.returncode == 0 else "the look at its files failed"
            except TimeoutError:
                return f"the look at its files took longer than {_LIMIT_S:g} s"
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


def _bytes_of(ranges: list[tuple[str, int, int]]) -> int:
    return sum(length for _, _, length in ranges)


def available_bytes() -> int:
    """What the kernel could give out without swapping; more of it read ahead would drive itself out again."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
