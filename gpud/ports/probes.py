"""How a worker is asked whether it is well."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class ProbeOutcome(StrEnum):
    """What one health request came to."""

    OK = "ok"
    BAD_STATUS = "bad_status"
    REFUSED = "refused"
    RESET = "reset"
    TIMEOUT = "timeout"
    LOCAL_ERROR = "local_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One health request's answer; `status` is 0 when there was none."""

    outcome: ProbeOutcome
    status: int = 0


class HealthProbe(Protocol):
    """Asks a worker whether it is well. Never raises except for cancellation."""

    async def probe(self, address: str, port: int, path: str, *, timeout_s: float) -> ProbeResult:
        """Send one GET on a fresh connection and judge its status (200..399 is well)."""
        ...
