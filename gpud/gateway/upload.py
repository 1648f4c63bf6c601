"""The part of a request's body that has come but may still be needed."""

from __future__ import annotations

WAITING_BYTES_MAX = 256 * 1024
"""Most of a body that is read before there is a worker to send it to."""
REPLAY_BYTES_MAX = 1024 * 1024
"""Largest body that is kept until the answer begins, so that the request can be sent again."""


class Upload:
    """Keeps a body until it is sent, and a small one until its answer begins.

    Args:
        first: What of it came with its head.
        done: The body has ended, or there is none.
    """

    __slots__ = ("_parts", "_size", "done", "replayable", "total")

    def __init__(self, first: bytes = b"", *, done: bool) -> None:
        self.done = done
        self.replayable = True
        self.total = self._size = len(first)
        self._parts = [first] if first else []

    @property
    def kept(self) -> bytes:
        """What is kept, as it came."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    @property
    def waiting_full(self) -> bool:
        """No more should be read until some is sent."""
        return self._size > WAITING_BYTES_MAX

    def add(self, data: bytes, *, done: bool, sent: bool) -> None:
        """Take the next bytes.

        Args:
            data: As they came.
            done: They are the last.
            sent: They have gone to a worker, so they are kept only for a second try.
        """
        self.done = done
        self.total += len(data)
        if sent and not self.replayable:
            return
        if sent and self._size + len(data) > REPLAY_BYTES_MAX:
            self.forget()
            return
        self._parts.append(data)
        self._size += len(data)

    def forget(self) -> None:
        """Keep nothing from here on: the request is not sent again."""
        self.replayable = False
        self._parts.clear()
        self._size = 0
