"""The rungs of idle workers on a fake engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.standby import Rung
from gpud.errors import LaunchFailed

if TYPE_CHECKING:
    from gpud.core.endpoint import EndpointSpec
    from gpud.core.worker import Worker
    from gpud.ports.steps import Step
    from tests.fakes.runtime import FakeContainer, FakeRuntime


class FakePausedStep:
    """A freezer of fake containers."""

    rung = Rung.PAUSED

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime

    async def unavailable(self) -> str:
        return ""

    async def enter(self, worker: Worker, spec: EndpointSpec) -> None:  # noqa: ARG002 - the port's signature
        found = await _running(self._runtime, worker)
        if found.env.get("NEVER_FREEZES") == "1":
            raise LaunchFailed("Its processes do not stand still.")
        found.frozen = True

    async def leave(self, worker: Worker, spec: EndpointSpec) -> None:  # noqa: ARG002 - the port's signature
        (await _running(self._runtime, worker)).frozen = False


class FakeSleepingStep:
    """Sleep of fake containers; they obey SLEEP_FAILS, SLEEP_HANGS, WAKE_FAILS and WAKE_HANGS."""

    rung = Rung.SLEEPING

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime

    async def unavailable(self) -> str:
        return ""

    async def enter(self, worker: Worker, spec: EndpointSpec) -> None:  # noqa: ARG002 - the port's signature
        found = await _running(self._runtime, worker)
        await _may(found, "SLEEP")
        if not found.asleep:
            found.asleep = True
            self._runtime.on_sleep(found)

    async def leave(self, worker: Worker, spec: EndpointSpec) -> None:  # noqa: ARG002 - the port's signature
        found = await _running(self._runtime, worker)
        await _may(found, "WAKE")
        if found.asleep:
            found.asleep = False
            self._runtime.on_wake(found)


async def _running(runtime: FakeRuntime, worker: Worker) -> FakeContainer:
    await asyncio.sleep(0)
    found = runtime.containers.get(worker.id)
    if found is None or not found.running:
        raise LaunchFailed("Its container does not run any more.")
    return found


async def _may(found: FakeContainer, what: str) -> None:
    if found.frozen:
        raise LaunchFailed("It is frozen and answers nothing.")
    if found.env.get(f"{what}_FAILS") == "1":
        raise LaunchFailed("It answered 500.")
    if found.env.get(f"{what}_HANGS") == "1":
        await asyncio.Event().wait()


def fake_steps(runtime: FakeRuntime) -> tuple[Step, ...]:
    """Every rung of idle workers."""
    return (FakePausedStep(runtime), FakeSleepingStep(runtime))
