"""The real fleet over a real store on a simulated box, with as many workers and endpoints as asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.adapters.cron_calendar import CronCalendar
from gpud.core.endpoint import EndpointSpec, GpuNeeds, ScalePolicy
from gpud.core.gpu import GpuAttach
from gpud.core.ids import EndpointName
from gpud.core.starts import BackoffPolicy
from gpud.core.worker import WorkerState
from gpud.fleet.fleet import Fleet, FleetPorts
from gpud.fleet.hands import FleetSettings
from gpud.fleet.reconciler import ReconcilerPolicy
from gpud.fleet.state import StartLimits

if TYPE_CHECKING:
    from gpud.adapters.sqlite.store import Store
    from gpud.gateway.dispatch import Dispatcher
    from tests.sim.box import Box


async def start_fleet(
    store: Store, tasks: asyncio.TaskGroup, box: Box, dispatcher: Dispatcher, *, workers: int, endpoints: int
) -> Fleet:
    """Start a fleet and wait until its workers are ready; they are spread over the first endpoints.

    Args:
        store: Open.
        tasks: Owns the fleet's loops.
        box: With as many GPUs as workers.
        dispatcher: Over the box's clock.
        workers: In all; each kept by its endpoint's `min_workers`.
        endpoints: In all; at most `workers` of them have any.
    """
    ports = FleetPorts(
        runtime=box.runtime,
        images=box.images,
        gpus=box.gpus,
        probe=box.probe,
        store=store.fleet,
        access=store.access,
        traffic=dispatcher,
        clock=box.clock,
        ids=box.ids,
        calendar=CronCalendar(),
    )
    settings = FleetSettings(
        parallel_starts=8, gpu_attach=GpuAttach.AUTO, idle_memory_mib_max=512, release_timeout_s=10.0
    )
    policy = ReconcilerPolicy(
        backoff=BackoffPolicy(base_s=1.0, max_s=30.0, circuit_failures=3),
        settle_s=0.0,
        verify_gpus=False,
        starts=StartLimits(box=workers, endpoint=workers),
    )
    fleet = Fleet(ports, settings, policy, tasks)
    dispatcher.watch(fleet.reconciler)
    await fleet.load()
    fleet.start()
    box.images.build("bench:1")
    for number in range(endpoints):
        kept = workers // endpoints + (number < workers % endpoints)
        spec = EndpointSpec(
            name=EndpointName(f"bench-{number}"),
            image="bench:1",
            port=8000,
            gpus=GpuNeeds(count=1),
            scale=ScalePolicy(min_workers=kept, max_workers=max(1, kept)),
        )
        await fleet.control.deploy(spec)
    while sum(w.state is WorkerState.READY for w in fleet.state.workers.values()) < workers:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.1)
    return fleet
