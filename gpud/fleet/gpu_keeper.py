"""Keeps the list of GPUs and their health: faults take one out, a clean stretch brings it back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpud.core.gpu import Gpu, GpuHealth, GpuStatus
from gpud.core.leftovers import is_clean
from gpud.core.records import GpuHealthSaved
from gpud.errors import DependencyDown, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from gpud.core.gpu import GpuUse
    from gpud.core.ids import GpuUuid
    from gpud.fleet.journal import Journal
    from gpud.fleet.reconciler import Reconciler
    from gpud.ports.gpus import GpuInventory
    from gpud.ports.time import Clock

log = structlog.get_logger(__name__)

_POLL_S = 15.0
_FAULTS_EVERY_S = 1.0
_NOT_LISTED = "The driver no longer lists this GPU"
_CLEAN_FOR_S = 60.0
"""A quarantined GPU returns after this long without memory in use or processes."""


class GpuKeeper:
    """Reports the inventory and every change of health to the reconciler.

    Args:
        without_sleepers: Takes out of a reading what sleeping workers keep; that is no leftover.
    """

    def __init__(
        self,
        *,
        gpus: GpuInventory,
        reconciler: Reconciler,
        journal: Journal,
        clock: Clock,
        idle_memory_mib_max: int,
        without_sleepers: Callable[[tuple[GpuUse, ...]], Awaitable[tuple[GpuUse, ...]]],
    ) -> None:
        self._gpus = gpus
        self._without_sleepers = without_sleepers
        self._reconciler = reconciler
        self._journal = journal
        self._clock = clock
        self._idle_memory_mib_max = idle_memory_mib_max
        self._clean_since_s: dict[GpuUuid, float] = {}
        self.fault = ""

    def load(
        self,
        found: tuple[Gpu, ...] | None,
        remembered: tuple[GpuStatus, ...],
        leased: Iterable[GpuUuid],
        *,
        rebooted: bool,
    ) -> None:
        """Set the inventory at start-up.

        The operator's cordons hold, and so do old faults until the machine is restarted. A GPU
        that a worker has and the driver does not list stays in the inventory, as unhealthy.

        Args:
            found: What the driver lists; None when it does not answer.
            remembered: GPUs whose health was ever not healthy.
            leased: GPUs that workers hold.
            rebooted: The machine was restarted since the last daemon.
        """
        before = {status.gpu.uuid: status for status in remembered}
        gpus = self._reconciler.state.gpus
        gpus.clear()
        for gpu in (status.gpu for status in remembered) if found is None else found:
            known = before.get(gpu.uuid)
            if known is None or (rebooted and known.health is not GpuHealth.CORDONED):
                known = GpuStatus(gpu=gpu)
            gpus[gpu.uuid] = replace(known, gpu=gpu)
        for uuid in leased:
            if uuid not in gpus and found is not None:
                gone = before[uuid].gpu if uuid in before else Gpu(uuid=uuid, name="unknown", memory_mib=0)
                gpus[uuid] = GpuStatus(gpu=gone)
                self.mark(uuid, GpuHealth.UNHEALTHY, _NOT_LISTED)

    async def run(self) -> None:
        """Watch the driver for as long as the daemon runs."""
        while True:
            try:
                await self.poll()
            except DependencyDown as error:
                if self.fault != error.detail:
                    log.warning("gpu.telemetry_stale", error=error.detail)
                self.fault = error.detail
            else:
                self.fault = ""
            poll_again_s = self._clock.now_s() + _POLL_S
            while self._clock.now_s() < poll_again_s:
                await asyncio.sleep(_FAULTS_EVERY_S)
                with suppress(DependencyDown):
                    await self.take_faults()

    async def take_faults(self) -> None:
        """Act on what the driver reported; asks it nothing, so that a dying GPU is left in a second."""
        for fault in await self._gpus.faults():
            self.mark(fault.uuid, GpuHealth.UNHEALTHY, fault.detail)

    async def poll(self) -> None:
        """Look once: what is there, what broke, what is clean again."""
        found = {gpu.uuid: gpu for gpu in await self._gpus.list_gpus()}
        await self.take_faults()
        for uuid, status in list(self._reconciler.state.gpus.items()):
            if uuid not in found and status.health is not GpuHealth.UNHEALTHY:
                self.mark(uuid, GpuHealth.UNHEALTHY, _NOT_LISTED)
        new = [gpu for uuid, gpu in found.items() if uuid not in self._reconciler.state.gpus]
        if new:
            self._reconciler.tell(lambda: self._add(new))
        await self._heal()
        await self._look_at_shared()

    def mark(self, uuid: GpuUuid, health: GpuHealth, reason: str) -> None:
        """Note what was seen of a GPU's health, with the reason people will read.

        What heals by itself never takes the place of what needs an operator.
        """

        def note() -> None:
            status = self._reconciler.state.gpus.get(uuid)
            heals = (GpuHealth.HEALTHY, GpuHealth.QUARANTINED)
            if status is not None and (status.health in heals or health not in heals):
                self.apply(uuid, health, reason)

        self._reconciler.tell(note)

    def apply(self, uuid: GpuUuid, health: GpuHealth, reason: str) -> None:
        """Change a GPU's health, in the reconciler's own task.

        Raises:
            NotFound: There is no such GPU.
        """
        status = self._reconciler.state.gpus.get(uuid)
        if status is None:
            raise NotFound(f"There is no GPU {uuid}. `gpud gpu ls` lists those there are.")
        if status.health is health and status.reason == reason:
            return
        changed = GpuStatus(gpu=status.gpu, health=health, reason=reason, since_ms=self._clock.at_ms())
        self._reconciler.state.gpus[uuid] = changed
        self._clean_since_s.pop(uuid, None)
        self._journal.add(GpuHealthSaved(status=changed))
        facts = {"gpu_uuid": uuid, "health": health, "reason": reason}
        self._reconciler.record("gpu.health_changed", facts)

    def _add(self, new: list[Gpu]) -> None:
        for gpu in new:
            self._reconciler.state.gpus[gpu.uuid] = GpuStatus(gpu=gpu)
            self._reconciler.record("gpu.appeared", {"gpu_uuid": gpu.uuid, "name": gpu.name})

    async def _heal(self) -> None:
        statuses = self._reconciler.state.gpus.values()
        quarantined = [s.gpu.uuid for s in statuses if s.health is GpuHealth.QUARANTINED]
        if not quarantined:
            return
        now_s = self._clock.now_s()
        for use in await self._without_sleepers(await self._gpus.usage(quarantined)):
            holders = self._reconciler.state.holders_of(use.uuid)
            if not is_clean(use, holders, limit_mib=self._idle_memory_mib_max):
                self._clean_since_s.pop(use.uuid, None)
            elif now_s - self._clean_since_s.setdefault(use.uuid, now_s) >= _CLEAN_FOR_S:
                self.mark(use.uuid, GpuHealth.HEALTHY, "")  # which an operator's cordon outlasts

    async def _look_at_shared(self) -> None:
        """Note how much of the shared GPUs is in use, so that nobody is promised what is not there."""
        state = self._reconciler.state
        shared = {uuid for worker in state.workers.values() if worker.gpu_slice for uuid in worker.gpu_uuids}
        asked = sorted(shared | state.used_mib.keys())
        for use in await self._gpus.usage(asked) if asked else ():
            self._reconciler.tell(partial(state.note_use, use))
