"""How the fleet reaches workers that fetch their jobs: through their environment, and by hearing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gpud.errors import Unavailable

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What was heard of a worker.

    Args:
        silent_s: Since its last call; None when it has not called yet.
        complaint: What it says is wrong with it; empty when nothing is.
    """

    silent_s: float | None = None
    complaint: str = ""


class WorkerLine(Protocol):
    """The listener that workers call, as the fleet sees it."""

    def environment(
        self, endpoint: EndpointName, worker_id: WorkerId, *, gpu_name: str, gpu_count: int
    ) -> tuple[tuple[str, str], ...]:
        """The variables that tell a worker where to call and as whom.

        Raises:
            Unavailable: The listener is not open yet, or cannot be.
        """
        ...

    async def pulse(self, worker_id: WorkerId, *, wait_s: float) -> Pulse:
        """What was heard of a worker; waits up to `wait_s` for its first call."""
        ...


class NoLine:
    """Where there is no listener, as in a replay."""

    def environment(
        self,
        endpoint: EndpointName,
        worker_id: WorkerId,  # noqa: ARG002 - the port's
        *,
        gpu_name: str,  # noqa: ARG002
        gpu_count: int,  # noqa: ARG002
    ) -> tuple[tuple[str, str], ...]:
        """No worker can be told where to call."""
        raise Unavailable(f"There is no listener for the workers of {endpoint} here.")

    async def pulse(self, worker_id: WorkerId, *, wait_s: float) -> Pulse:  # noqa: ARG002 - the port's
        """Nothing is heard."""
        return Pulse()
