"""A job at a worker that fetched it: counted as load like any request, though no slot was chosen for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName, WorkerId
    from gpud.gateway.inflight import EndpointCount, LoadBook
    from gpud.ports.time import Clock


class Place:
    """Counted from its making until `release` (port `JobPlace`).

    Args:
        book: Where it is counted.
        count: Of its endpoint.
        worker_id: Who has the job.
        clock: Loop time.
        freed: Told of the endpoint once the place is given back.
    """

    __slots__ = (
        "_began_s",
        "_book",
        "_clock",
        "_count",
        "_endpoint",
        "_freed",
        "_key",
        "_since_s",
        "_worker_id",
    )

    def __init__(
        self,
        book: LoadBook,
        endpoint: EndpointName,
        worker_id: WorkerId,
        clock: Clock,
        freed: Callable[[EndpointName], None],
    ) -> None:
        self._book = book
        self._count: EndpointCount | None = book.endpoint(endpoint)
        self._endpoint = endpoint
        self._worker_id = worker_id
        self._clock = clock
        self._freed = freed
        self._since_s = clock.now_s()
        self._key = ""
        self._began_s = book.job_began(self._count, worker_id, self._key, self._since_s)

    def charge(self, key: str) -> None:
        """Have another key pay for it, from its beginning."""
        if self._count is not None:
            self._book.desk(self._worker_id, self._clock.now_s()).move(self._key, key, self._began_s)
            self._key = key

    def used_s(self) -> float:
        """Its part of the worker's time so far; 0 once it is given back."""
        if self._count is None:
            return 0.0
        return self._book.desk(self._worker_id, self._clock.now_s()).part_s - self._began_s

    def release(self, now_s: float | None = None) -> None:
        """Give the place back; safe to repeat."""
        count, self._count = self._count, None
        if count is not None:
            now_s = self._clock.now_s() if now_s is None else now_s
            count.exchanges.append((self._since_s, self._since_s, now_s))
            self._book.released(count, self._worker_id, self._key, now_s)
            self._freed(self._endpoint)

    def judge(self, now_s: float, *, failed: bool) -> None:  # noqa: ARG002 - the port's
        """Say how it went as far as the worker is concerned."""
        if self._count is not None:
            self._count.answered(self._worker_id, failed=failed)
