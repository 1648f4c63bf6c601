"""What containers use, as whoever runs them can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpud.core.ids import WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUse:
    """A container at one moment.

    Args:
        cpu_s: CPU time used since its start.
        memory_bytes: In use, without files that the kernel merely keeps.
        pids: Its processes as the host sees them; empty when they cannot be told.
    """

    cpu_s: float
    memory_bytes: int
    pids: frozenset[int] = frozenset()


class UseReader(Protocol):
    """Tells what containers use."""

    async def uses(self, worker_ids: Iterable[WorkerId]) -> Mapping[WorkerId, ContainerUse]:
        """Read some workers' containers; those that do not run are left out.

        Raises:
            DependencyDown: The engine does not answer.
        """
        ...
