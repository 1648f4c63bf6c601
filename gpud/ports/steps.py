"""What the fleet needs of a rung that a ready worker steps down to: how it gets there, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.endpoint import EndpointSpec
    from gpud.core.standby import Rung
    from gpud.core.worker import Worker


class Step(Protocol):
    """One rung below READY. Every method may be repeated after a crash.

    Checkpoints of workers that run are steps too: `cuda-checkpoint` suspends a process and gives its GPU
    memory back, as sleep does, and a restore by CRIU takes the place of waking. Whatever fails, the fleet
    destroys the container and starts cold.

    Every method raises DependencyDown when the engine does not answer in time.
    """

    @property
    def rung(self) -> Rung:
        """Which one it is."""
        ...

    async def unavailable(self) -> str:
        """Say why this box cannot have it; empty when it can."""
        ...

    async def enter(self, worker: Worker, spec: EndpointSpec) -> None:
        """Bring a worker that has nothing to do down to the rung.

        Raises:
            LaunchFailed: It does not get there.
        """
        ...

    async def leave(self, worker: Worker, spec: EndpointSpec) -> None:
        """Bring it back; it answers its health check after that, or soon.

        Raises:
            LaunchFailed: It does not come back.
        """
        ...
