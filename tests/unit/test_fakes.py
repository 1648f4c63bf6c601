"""The fakes go wrong exactly as they are told to: what a simulation builds upon."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from gpud.core.endpoint import PinnedImage
from gpud.core.ids import EndpointName, Revision, WorkerId
from gpud.errors import DependencyDown, ImageNotFound, ImagePullFailed, LaunchFailed
from gpud.ports.containers import ContainerStatus, WorkerLaunch
from tests.fakes.clock import FakeClock
from tests.fakes.faults import Fault, FaultKind
from tests.fakes.images import FakeImages
from tests.fakes.runtime import FakeRuntime

WORKER = WorkerId("wk_" + "a" * 16)
PIN = "app@sha256:" + "a" * 64


def launch_of(worker_id: WorkerId = WORKER, **env: str) -> WorkerLaunch:
    return WorkerLaunch(
        worker_id=worker_id,
        endpoint=EndpointName("echo"),
        revision=Revision("0123456789ab"),
        generation=1,
        image=PinnedImage(reference="app:1", pin=PIN),
        port=8000,
        env=tuple(env.items()),
    )


@pytest.fixture
def runtime() -> FakeRuntime:
    made = FakeRuntime(wall_ns=FakeClock().wall_ns, rng=random.Random(7))
    made.call_timeout_s = 0.02
    return made


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        (FaultKind.ERROR_BEFORE, None),
        (FaultKind.HANG_BEFORE, None),
        (FaultKind.HALFWAY, ContainerStatus.CREATED),
        (FaultKind.ERROR_AFTER, ContainerStatus.RUNNING),
        (FaultKind.HANG_AFTER, ContainerStatus.RUNNING),
    ],
)
async def test_a_failed_start_leaves_what_its_fault_says_and_can_be_repeated(
    runtime: FakeRuntime, kind: FaultKind, left: ContainerStatus | None
) -> None:
    runtime.faults.inject("start_worker", Fault(kind=kind))
    with pytest.raises(DependencyDown):
        await runtime.start_worker(launch_of())
    seen = await runtime.inspect_worker(WORKER)
    assert (seen.status if seen else None) is left
    assert (await runtime.start_worker(launch_of())).status is ContainerStatus.RUNNING
    assert len(runtime.containers) == 1


async def test_a_delay_only_takes_longer(runtime: FakeRuntime) -> None:
    loop = asyncio.get_running_loop()
    runtime.faults.inject("ping", Fault(kind=FaultKind.DELAY, delay_s=0.03))
    begun_s = loop.time()
    await runtime.ping()
    assert loop.time() - begun_s >= 0.029


async def test_faults_come_from_a_source_when_none_are_in_line(runtime: FakeRuntime) -> None:
    asked: list[str] = []

    def source(call: str) -> Fault | None:
        asked.append(call)
        return Fault(kind=FaultKind.ERROR_BEFORE, error=LaunchFailed("unlucky"))

    runtime.faults.source = source
    runtime.faults.inject("ping", Fault(kind=FaultKind.ERROR_BEFORE))
    with pytest.raises(DependencyDown):
        await runtime.ping()
    with pytest.raises(LaunchFailed):
        await runtime.ping()
    assert asked == ["ping"]


@pytest.mark.parametrize("chance", [0.0, 1.0])
async def test_a_cancelled_start_has_its_effect_or_not_by_chance(runtime: FakeRuntime, chance: float) -> None:
    runtime.create_s, runtime.cancelled_lands = 0.01, chance
    start = asyncio.create_task(runtime.start_worker(launch_of()))
    await asyncio.sleep(0)
    start.cancel()
    await asyncio.wait([start])
    await asyncio.sleep(0)
    assert (WORKER in runtime.containers) is bool(chance)


async def test_a_worker_listens_after_its_boot_and_no_longer_than_it_runs(runtime: FakeRuntime) -> None:
    runtime.boot_s = 0.02
    seen = await runtime.start_worker(launch_of())
    assert not runtime.listens(seen.address)
    await asyncio.sleep(0.03)
    assert runtime.listens(seen.address)
    runtime.crash(WORKER, out_of_memory=True)
    assert not runtime.listens(seen.address)
    after = await runtime.inspect_worker(WORKER)
    assert after is not None
    assert (after.exit_code, after.out_of_memory) == (137, True)


async def test_an_address_comes_back_as_soon_as_it_is_free(runtime: FakeRuntime) -> None:
    first = await runtime.start_worker(launch_of())
    runtime.crash(WORKER)
    second = await runtime.start_worker(launch_of(WorkerId("wk_" + "b" * 16)))
    assert second.address == first.address


async def test_events_are_lost_and_repeated_by_chance(runtime: FakeRuntime) -> None:
    heard: list[WorkerId] = []

    async def watch() -> None:
        heard.extend([each async for each in runtime.watch()])

    for loss, repeat, expected in ((1.0, 0.0, 0), (0.0, 1.0, 2), (0.0, 0.0, 1)):
        heard.clear()
        runtime.event_loss, runtime.event_repeat = loss, repeat
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        await runtime.start_worker(launch_of())
        await asyncio.sleep(0.01)
        runtime.cut_events()
        await watching
        assert heard == [WORKER] * expected
        runtime.containers.clear()


async def test_an_engine_that_is_down_fails_calls_and_takes_containers_along_or_not(
    runtime: FakeRuntime,
) -> None:
    for live, status in ((True, ContainerStatus.RUNNING), (False, ContainerStatus.EXITED)):
        await runtime.start_worker(launch_of())
        runtime.stop_engine(containers_live=live)
        calls: list[Any] = [runtime.ping(), runtime.list_workers(), runtime.start_worker(launch_of())]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, DependencyDown)
        runtime.start_engine()
        (seen,) = await runtime.list_workers()
        assert seen.status is status


async def test_the_engine_starts_only_images_that_the_store_has() -> None:
    images = FakeImages()
    runtime = FakeRuntime(wall_ns=FakeClock().wall_ns, rng=random.Random(7), has_image=images.has)
    with pytest.raises(ImageNotFound):
        await runtime.start_worker(launch_of())


async def test_a_pull_fails_as_told_and_the_next_one_succeeds() -> None:
    images = FakeImages()
    images.stall_timeout_s = 0.01
    image = PinnedImage(reference="app:1", pin=images.push("app:1"))
    for kind in (FaultKind.HALFWAY, FaultKind.HANG_BEFORE):
        images.faults.inject("pull", Fault(kind=kind))
        with pytest.raises(ImagePullFailed):
            await images.pull(image, None, lambda _: None)
        assert not images.has(image.pin)
    await asyncio.gather(*(images.pull(image, None, lambda _: None) for _ in range(3)))
    assert images.has(image.pin)
    assert images.pulls_begun == [image.pin] * 3
    images.evict(image.pin)
    assert not await images.present(image)
