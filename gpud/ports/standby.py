"""What the fleet needs of a rung between nothing and a worker: how a container gets on it, and off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.core.standby import Rung, Standby
    from gpud.ports.containers import SeenContainer, WorkerLaunch


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """A container that runs its application now.

    Args:
        address: Its IP on gpud's network.
        started_ns: When the application began, Unix nanoseconds.
    """

    address: str
    started_ns: int


class Tier(Protocol):
    """One rung. Every method may be repeated after a crash; a lost answer is asked for again.

    Checkpoints are tiers too: `enter` writes the image of a process and lets it go, `leave` restores
    it. Whatever fails, the fleet destroys the container and starts cold.

    Every method raises DependencyDown when the engine does not answer in time, and LaunchFailed when it is
    this container, or what the rung keeps for it, that cannot be used.
    """

    @property
    def rung(self) -> Rung:
        """Which one it is."""
        ...

    @property
    def uses_engine(self) -> bool:
        """Leaving it takes a start of the engine, of which only so many run at once."""
        ...

    async def unavailable(self) -> str:
        """Say why this box cannot have it; empty when it can."""
        ...

    async def enter(self, launch: WorkerLaunch) -> SeenContainer:
        """Bring the container of this launch onto the rung.

        Raises:
            ImageNotFound: The engine has no such image.
            LaunchFailed: It cannot be brought there.
        """
        ...

    async def leave(self, launch: WorkerLaunch, standby: Standby) -> Woken:
        """Let the container run as the worker it was made for, with this launch's environment.

        Raises:
            LaunchFailed: It does not come back.
        """
        ...

    async def kept(self, standby: Standby, seen: SeenContainer) -> str:
        """Say why a container is not on the rung any more; empty when it is."""
        ...

    async def was_left(self, standby: Standby) -> bool:
        """Whether its container has left the rung, by a `leave` of which no row tells."""
        ...

    async def discard(self, worker_id: WorkerId) -> None:
        """Let go of what holds the container, so that it can be stopped and removed; absent is fine."""
        ...

    async def leftovers(self) -> tuple[WorkerId, ...]:
        """Containers that something is kept for here; those that are gone are then discarded."""
        ...
