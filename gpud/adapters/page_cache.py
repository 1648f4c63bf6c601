"""Records what a start left in the page cache, and brings it there again ahead of the next one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gpud.core.page_cache import within_budget
from gpud.errors import GpudError
from gpud.ports.page_cache import CacheWork

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpud.adapters.threads import Threads
    from gpud.core.endpoint import PinnedImage
    from gpud.core.ids import Revision
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
    """

    def __init__(
        self, images: ImageStore, threads: Threads, *, folder: Path, volume_roots: Sequence[Path]
    ) -> None:
        self._images = images
        self._threads = threads
        self._folder = folder
        self._roots = tuple(volume_roots)
        self._one = asyncio.Lock()

    def has_record(self, revision: Revision) -> bool:
        """Whether it is known what a start of this revision reads."""
        return self._file_of(revision).exists()

    def forget(self, *, but: frozenset[Revision]) -> None:
        """Drop the records of all revisions but these."""
        for file in self._folder.glob("*.json"):
            if file.stem not in but:
                file.unlink(missing_ok=True)

    async def record(self, revision: Revision, image: PinnedImage, *, budget_bytes: int) -> CacheWork:
        """Note which parts of an image's files are in memory now, right after a start."""
        try:
            layers = await self._images.layer_dirs(image)
        except GpudError as error:
            return CacheWork(why_not=error.detail)
        if not layers:
            return CacheWork(why_not="the engine does not tell where it keeps the layers of this image")
        if not all(os.access(layer, os.R_OK | os.X_OK) for layer in layers):
            return CacheWork(why_not=f"gpud may not read {layers[0]}; only root may")
        found = await self._ask({"roots": list(layers)})
        if not isinstance(found, list):
            return CacheWork(why_not=str(found))
        ranges = within_budget(((path, offset, length) for path, offset, length in found), budget_bytes)
        await self._threads.run(self._write, revision, ranges)
        return _work(ranges)

    async def replay(
        self, revision: Revision, file_sets: tuple[FileSet, ...], *, budget_bytes: int
    ) -> CacheWork:
        """Ask the disk for what was recorded, and for these files after it."""
        ranges = await self._threads.run(self._ranges, revision, file_sets, budget_bytes)
        if not ranges:
            return CacheWork(why_not="nothing was recorded and no file is meant")
        done = await self._ask({"ranges": ranges})
        if not isinstance(done, dict):
            return CacheWork(why_not=str(done))
        return CacheWork(files=done["files"], bytes_done=done["bytes"])

    def _file_of(self, revision: Revision) -> Path:
        return self._folder / f"{revision}.json"

    def _write(self, revision: Revision, ranges: list[tuple[str, int, int]]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        new = self._file_of(revision).with_suffix(".new")
        new.write_text(json.dumps(ranges), encoding="utf-8")
        new.replace(self._file_of(revision))

    def _ranges(
        self, revision: Revision, file_sets: tuple[FileSet, ...], budget_bytes: int
    ) -> list[tuple[str, int, int]]:
        try:
            recorded = json.loads(self._file_of(revision).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            recorded = []
        ranges = [(str(path), int(offset), int(length)) for path, offset, length in recorded]
        ranges += [(str(path), 0, path.stat().st_size) for path in self._files(file_sets)]
        return within_budget(ranges, budget_bytes)

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


def _work(ranges: list[tuple[str, int, int]]) -> CacheWork:
    return CacheWork(files=len({path for path, _, _ in ranges}), bytes_done=sum(n for _, _, n in ranges))
