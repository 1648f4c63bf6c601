"""The rungs of standbys on a fake engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.adapters.tier_created import CreatedTier
from gpud.core.standby import Rung, Standby
from gpud.errors import LaunchFailed
from gpud.ports.containers import ContainerStatus, EntrypointHold, SeenContainer
from gpud.ports.standby import Woken

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import WorkerId
    from gpud.ports.containers import WorkerLaunch
    from gpud.ports.standby import Tier
    from tests.fakes.runtime import FakeRuntime

_HOLD = EntrypointHold(program="/fake/hold", directory="/fake/standby")


class FakeParkedTier:
    """A parked rung whose shim is the fake engine's own.

    Attributes:
        broken: What the shim says where it cannot run; empty where it can.
        unreadable: What the disk says where the files of parked containers are; empty while it reads.
    """

    rung = Rung.PARKED
    uses_engine = False

    def __init__(self, runtime: FakeRuntime, *, wall_ns: Callable[[], int]) -> None:
        self.broken = ""
        self.unreadable = ""
        self._runtime = runtime
        self._wall_ns = wall_ns
        self._kept_for: set[WorkerId] = set()

    async def unavailable(self) -> str:
        return ""

    async def enter(self, launch: WorkerLaunch) -> SeenContainer:
        self._read()
        self._kept_for.add(launch.worker_id)
        seen = await self._runtime.start_worker(replace(launch, hold=_HOLD))
        if self.broken:
            self._runtime.crash(launch.worker_id, exit_code=126)
            raise LaunchFailed(f"The shim cannot run in this image: {self.broken}")
        return seen

    async def leave(self, launch: WorkerLaunch, standby: Standby) -> Woken:
        address = standby.address
        if not self._runtime.release(standby.id, dict(launch.env)):
            seen = await self._runtime.inspect_worker(standby.id)
            if seen is None or seen.status is not ContainerStatus.RUNNING:
                raise LaunchFailed("The container ended while it was parked.")
            address = seen.address
        return Woken(address=address, started_ns=self._wall_ns())

    async def kept(self, standby: Standby, seen: SeenContainer) -> str:
        self._read()
        if seen.status is not ContainerStatus.RUNNING:
            return f"The container ended while it was parked, with code {seen.exit_code}."
        return "" if seen.address == standby.address else "Its address changed."

    async def was_left(self, standby: Standby) -> bool:
        self._read()
        found = self._runtime.containers.get(standby.id)
        return found is not None and found.running and not found.held

    async def discard(self, worker_id: WorkerId) -> None:
        self._read()
        self._kept_for.discard(worker_id)

    async def leftovers(self) -> tuple[WorkerId, ...]:
        self._read()
        return tuple(sorted(self._kept_for))

    def _read(self) -> None:
        if self.unreadable:
            raise LaunchFailed(f"A file of a parked worker cannot be used: {self.unreadable}.")


def fake_tiers(runtime: FakeRuntime, *, wall_ns: Callable[[], int]) -> tuple[Tier, ...]:
    """Every rung a daemon knows."""
    return (CreatedTier(runtime), FakeParkedTier(runtime, wall_ns=wall_ns))
