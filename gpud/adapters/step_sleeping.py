"""The rung of workers that sleep by means of their own: the engine in them gives its GPU memory back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.standby import Rung
from gpud.core.step_policy import hooks_of
from gpud.errors import LaunchFailed

if TYPE_CHECKING:
    from gpud.adapters.worker_hooks import WorkerHooks
    from gpud.core.endpoint import EndpointSpec
    from gpud.core.worker import Worker

_CHECK_EVERY_S = 0.05


class SleepingStep:
    """A `Step` made of HTTP calls. The fleet limits their time, and sees to the GPUs itself."""

    rung = Rung.SLEEPING

    def __init__(self, hooks: WorkerHooks) -> None:
        self._hooks = hooks

    async def unavailable(self) -> str:
        """It takes nothing of the box."""
        return ""

    async def enter(self, worker: Worker, spec: EndpointSpec) -> None:
        """Tell it to sleep."""
        await self._hooks.call(worker.address, worker.port, hooks_of(spec.sleep).enter)

    async def leave(self, worker: Worker, spec: EndpointSpec) -> None:
        """Tell it to wake, and ask until it says that it did."""
        hooks = hooks_of(spec.sleep)
        await self._hooks.call(worker.address, worker.port, hooks.wake)
        while hooks.check.path:
            try:
                await self._hooks.call(worker.address, worker.port, hooks.check)
            except LaunchFailed:
                await asyncio.sleep(_CHECK_EVERY_S)
            else:
                return
