"""What the fleet needs to bring files into the page cache ahead of a start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.endpoint import PinnedImage
    from gpud.core.ids import Revision
    from gpud.core.page_cache import FileSet


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWork:
    """What a recording or a replay came to.

    Args:
        files: Files looked at that count.
        bytes_done: Noted, or asked of the disk.
        why_not: Why nothing could be done; empty when it was done.
    """

    files: int = 0
    bytes_done: int = 0
    why_not: str = ""


class PageCache(Protocol):
    """Never raises: without it starts only take longer."""

    def has_record(self, revision: Revision) -> bool:
        """Whether it is known what a start of this revision reads."""
        ...

    async def record(self, revision: Revision, image: PinnedImage, *, budget_bytes: int) -> CacheWork:
        """Note which parts of an image's files are in memory now, right after a start."""
        ...

    async def replay(
        self, revision: Revision, file_sets: tuple[FileSet, ...], *, budget_bytes: int
    ) -> CacheWork:
        """Ask the disk for what was recorded, and for these files after it."""
        ...

    def forget(self, *, but: frozenset[Revision]) -> None:
        """Drop the records of all revisions but these."""
        ...
