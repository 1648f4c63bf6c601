"""How a worker is asked whether it is well."""

from __future__ import annotations

from typing import Protocol

from gpud.core.probing import ProbeOutcome, ProbeResult

__all__ = ["HealthProbe", "ProbeOutcome", "ProbeResult"]


class HealthProbe(Protocol):
    """Asks a worker whether it is well. Never raises except for cancellation."""

    async def probe(
        self, address: str, port: int, path: str, *, timeout_s: float, body: str = ""
    ) -> ProbeResult:
        """Send one GET on a fresh connection and judge its status (200..399 is well).

        With a body it is a POST of JSON instead.
        """
        ...
