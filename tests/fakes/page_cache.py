"""A page cache that remembers what it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.ports.page_cache import CacheWork

if TYPE_CHECKING:
    from gpud.core.endpoint import PinnedImage
    from gpud.core.ids import Revision, WorkerId
    from gpud.core.page_cache import FileSet


class FakePageCache:
    """A `PageCache` without files.

    Attributes:
        recorded: Revisions recorded, in order.
        replayed: Revisions replayed with what was asked besides, in order.
        watched: Starts that are watched, with the pid that was named; 0 before.
        why_not: Why recordings fail; empty lets them succeed.
    """

    def __init__(self) -> None:
        self.recorded: list[Revision] = []
        self.replayed: list[tuple[Revision, tuple[FileSet, ...]]] = []
        self.watched: dict[WorkerId, int] = {}
        self.why_not = ""
        self._records: set[Revision] = set()

    def has_record(self, revision: Revision) -> bool:
        return revision in self._records

    async def watch(self, worker_id: WorkerId) -> None:
        self.watched[worker_id] = 0

    async def attach(self, worker_id: WorkerId, pid: int) -> None:
        self.watched[worker_id] = pid

    async def unwatch(self, worker_id: WorkerId) -> None:
        self.watched.pop(worker_id, None)

    async def record(
        self,
        revision: Revision,
        image: PinnedImage,  # noqa: ARG002 - the port's signature
        *,
        budget_bytes: int,  # noqa: ARG002 - the port's signature
        worker_id: WorkerId,
    ) -> CacheWork:
        self.recorded.append(revision)
        by = "opened" if self.watched.pop(worker_id, 0) else "resident"
        if not self.why_not:
            self._records.add(revision)
        return CacheWork(files=1, bytes_done=1, why_not=self.why_not, by=by)

    async def replay(
        self,
        revision: Revision,
        file_sets: tuple[FileSet, ...],
        *,
        budget_bytes: int,  # noqa: ARG002 - the port's signature
    ) -> CacheWork:
        self.replayed.append((revision, file_sets))
        return CacheWork(files=1, bytes_done=1)

    def forget(self, *, but: frozenset[Revision]) -> None:
        self._records &= but
