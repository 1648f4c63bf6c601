"""The tokens with which workers that fetch their jobs identify themselves."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId

_HEX_CHARS = 48


class WorkerTokens:
    """One token for each worker id, made from the install's secret.

    Nothing is stored, and a restart of the daemon changes none.

    Args:
        secret: Of the install.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, worker_id: WorkerId) -> str:
        """The token of a worker."""
        return hmac.new(self._secret, worker_id.encode(), hashlib.sha256).hexdigest()[:_HEX_CHARS]

    def fits(self, token: str, worker_id: WorkerId) -> bool:
        """Whether a token, bare or after `Bearer`, is that worker's."""
        bare = token.removeprefix("Bearer ").strip()
        return hmac.compare_digest(bare.encode(errors="replace"), self.of(worker_id).encode())
