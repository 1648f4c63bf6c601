"""Two connections after an upgrade: bytes pass untouched, and each half closes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.gateway.client_side import ClientConnection
    from gpud.gateway.worker_side import WorkerConnection

HALF_CLOSED_S_MAX = 60.0
"""How long one side may go on after the other has closed its half."""


class Tunnel:
    """A client and a worker that speak to each other.

    Args:
        client: One side.
        worker: The other.
    """

    __slots__ = ("_client", "_client_ended", "_ends_by_s", "_worker", "_worker_ended")

    def __init__(self, client: ClientConnection, worker: WorkerConnection) -> None:
        self._client = client
        self._worker = worker
        self._client_ended = False
        self._worker_ended = False
        self._ends_by_s = 0.0

    def half_closed(self, now_s: float, *, by_client: bool) -> bool:
        """One side has said its last; True when both have."""
        if by_client:
            self._client_ended = True
            self._worker.write_eof()
        else:
            self._worker_ended = True
            self._client_ended |= not self._client.write_eof()
        self._ends_by_s = now_s + HALF_CLOSED_S_MAX
        return self._client_ended and self._worker_ended

    def overdue(self, now_s: float) -> bool:
        """One half has been closed for so long that the other must end."""
        return self._ends_by_s > 0 and now_s > self._ends_by_s
