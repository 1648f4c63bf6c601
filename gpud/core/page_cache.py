"""Which files are brought into the page cache ahead of a start, and how much of them?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gpud.core.endpoint import EndpointSpec, Volume

PATTERNS_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCachePolicy:
    """What an endpoint has read ahead of its starts. Applies at once, outside revisions.

    Args:
        record: Note which parts of the image's files a start reads, and read these again before the next.
        files: Patterns of paths inside the container, below its volumes, such as `/models/**`.
        budget_mib: Most that is read for one start.
    """

    record: bool = False
    files: tuple[str, ...] = ()
    budget_mib: int = 16_384

    @property
    def wanted(self) -> bool:
        """Whether anything is to be read."""
        return self.record or bool(self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """Files of a volume that a pattern means, where this box has them.

    Args:
        root: Host path of the volume, or its name.
        pattern: Below the root, with `*`, `?` and `**`.
    """

    root: str
    pattern: str


def require_page_cache(spec: EndpointSpec, require: Callable[[bool, str, str], None]) -> None:
    """Say what makes the policy of a spec unusable."""
    policy = spec.page_cache
    require(len(policy.files) <= PATTERNS_MAX, "page_cache.files", f"must be at most {PATTERNS_MAX} patterns")
    require(1 <= policy.budget_mib <= 1 << 24, "page_cache.budget_mib", "must be 1 to 16777216")
    for number, pattern in enumerate(policy.files):
        path = f"page_cache.files.{number}"
        require(pattern.startswith("/") and ".." not in pattern.split("/"), path, "must be an absolute path")
        inside = file_set_of(pattern, spec.volumes) is not None
        require(inside, path, "must lie below the target of one of the endpoint's volumes")


def file_set_of(pattern: str, volumes: Iterable[Volume]) -> FileSet | None:
    """Find the volume that a pattern lies in, the innermost one; None when it lies in none."""
    holders = [v for v in volumes if pattern.startswith(v.target.rstrip("/") + "/")]
    if not holders:
        return None
    volume = max(holders, key=lambda v: len(v.target))
    return FileSet(root=volume.source, pattern=pattern.removeprefix(volume.target.rstrip("/") + "/"))


def file_sets_of(spec: EndpointSpec) -> tuple[FileSet, ...]:
    """All that an endpoint's patterns mean, in their order."""
    found = (file_set_of(pattern, spec.volumes) for pattern in spec.page_cache.files)
    return tuple(each for each in found if each is not None)


def ranges_of(resident: Sequence[int], *, page_bytes: int, gap_pages: int) -> list[tuple[int, int]]:
    """Turn pages into ranges of bytes, joining those with small gaps between.

    Args:
        resident: For each page of a file, 1 when it is in memory, else 0.
        page_bytes: Size of a page.
        gap_pages: Pages that are read along, because two reads cost more than a longer one.

    Returns:
        Offset and length of each range, in order.
    """
    ranges: list[tuple[int, int]] = []
    begin = last = -1
    for page, here in enumerate(resident):
        if not here:
            continue
        if begin >= 0 and page - last - 1 > gap_pages:
            ranges.append((begin * page_bytes, (last + 1 - begin) * page_bytes))
            begin = page
        if begin < 0:
            begin = page
        last = page
    if begin >= 0:
        ranges.append((begin * page_bytes, (last + 1 - begin) * page_bytes))
    return ranges


def within_budget(ranges: Iterable[tuple[str, int, int]], budget_bytes: int) -> list[tuple[str, int, int]]:
    """Cut a list of ranges (path, offset, length) where the budget ends; what comes first goes first."""
    chosen: list[tuple[str, int, int]] = []
    left = budget_bytes
    for path, offset, length in ranges:
        if left <= 0:
            break
        taken = min(length, left)
        chosen.append((path, offset, taken))
        left -= taken
    return chosen
