"""What the fleet needs to bring files into the page cache ahead of a start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.endpoint import PinnedImage
    from gpud.core.ids import Revision, WorkerId
    from gpud.core.page_cache import FileSet


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWork:
    """What a recording or a replay came to.

    Args:
        files: Files looked at that count.
        bytes_done: Noted, or asked of the disk.
        left_out_bytes: More that would have been, had the budget or the box's memory allowed it.
        why_not: Why nothing could be done; empty when it was done.
        by: How a recording knows: `opened`, what that start opened; `resident`, all that was in memory.
    """

    files: int = 0
    bytes_done: int = 0
    left_out_bytes: int = 0
    why_not: str = ""
    by: str = ""


class PageCache(Protocol):
    """Never raises: without it starts only take longer."""

    def has_record(self, revision: Revision) -> bool:
        """Whether it is known what a start of this revision reads."""
        ...

    async def watch(self, worker_id: WorkerId) -> None:
        """Get ready to see which files a start opens; its container need not be there yet."""
        ...

    async def attach(self, worker_id: WorkerId, pid: int) -> None:
        """The container runs, with this process as its first: from now on see what it opens."""
        ...

    async def unwatch(self, worker_id: WorkerId) -> None:
        """Its start is not recorded after all."""
        ...

    async def record(
        self, revision: Revision, image: PinnedImage, *, budget_bytes: int, worker_id: WorkerId
    ) -> CacheWork:
        """Note which parts of an image's files a start read, right after it.

        Of a start that was watched these are the parts in memory of what it opened, else of all files.
        """
        ...

    async def replay(
        self, revision: Revision, file_sets: tuple[FileSet, ...], *, budget_bytes: int
    ) -> CacheWork:
        """Ask the disk for what was recorded, and for these files after it."""
        ...

    def forget(self, *, but: frozenset[Revision]) -> None:
        """Drop the records of all revisions but these."""
        ...
