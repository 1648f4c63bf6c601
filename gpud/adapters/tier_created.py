"""The rung of containers that are created and not started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.standby import Rung, Standby
from gpud.ports.containers import ContainerStatus, SeenContainer
from gpud.ports.standby import Woken

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.ports.containers import ContainerRuntime, WorkerLaunch


class CreatedTier:
    """A `Tier`: leaving it is the engine's start, which takes most of a start's time."""

    rung = Rung.CREATED
    uses_engine = True

    def __init__(self, runtime: ContainerRuntime) -> None:
        self._runtime = runtime

    async def unavailable(self) -> str:
        """Every engine can have it."""
        return ""

    async def enter(self, launch: WorkerLaunch) -> SeenContainer:
        """Create the container."""
        return await self._runtime.create_worker(launch)

    async def leave(self, launch: WorkerLaunch, standby: Standby) -> Woken:  # noqa: ARG002 - the port's signature
        """Start it; one that vanished is created again by the same call."""
        seen = await self._runtime.start_worker(launch)
        return Woken(address=seen.address, started_ns=seen.started_ns)

    async def kept(self, standby: Standby, seen: SeenContainer) -> str:  # noqa: ARG002 - the port's signature
        """It is kept for as long as nobody starts it."""
        return "" if seen.status is ContainerStatus.CREATED else "Somebody else started the container."

    async def was_left(self, standby: Standby) -> bool:  # noqa: ARG002 - the port's signature
        """The engine is asked for its start only once a row says so."""
        return False

    async def discard(self, worker_id: WorkerId) -> None:
        """Nothing holds it."""

    async def leftovers(self) -> tuple[WorkerId, ...]:
        """It keeps nothing but the container."""
        return ()
