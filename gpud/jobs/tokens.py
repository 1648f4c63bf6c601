"""Tokens with which a worker may speak about the one delivery it was given, and about nothing else."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.job import Job

_HEX_CHARS = 40


class JobTokens:
    """Made from the install's secret, so a worker that goes on over a restart of the daemon keeps its token.

    Args:
        secret: Of the install.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.digest(secret, b"gpud job tokens", "sha256")

    def of(self, job: Job) -> str:
        """The token of a job's present delivery."""
        said = f"{job.id}:{job.deliveries}".encode()
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()[:_HEX_CHARS]

    def fits(self, token: str, job: Job) -> bool:
        """Whether a token is that of a job's present delivery."""
        return hmac.compare_digest(token.encode(errors="replace"), self.of(job).encode())
