"""What every container runtime promises: the fake, and a Docker Engine through its SDK."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from gpud.adapters.docker_runtime import DockerRuntime
from gpud.adapters.threads import Threads
from gpud.core.endpoint import PinnedImage
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId, container_name
from gpud.errors import ImageNotFound, LaunchFailed
from gpud.ports.containers import ContainerStatus, WorkerLaunch
from gpud.settings import DockerSettings
from tests.fakes.faults import Fault, FaultKind
from tests.fakes.runtime import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gpud.ports.containers import ContainerRuntime
    from tests.rig.engine import Engine

pytestmark = pytest.mark.long

NETWORK = "gpud-contract"
INSTALL = "contract"
WORKER = WorkerId("wk_" + "a" * 16)
GPU = GpuUuid("GPU-contract-1")
SECOND_NS = 1_000_000_000
KILLED, TERMINATED = 137, 143


class Box(Protocol):
    """A runtime, and what may happen to its containers from outside."""

    runtime: ContainerRuntime
    image: PinnedImage

    def kill(self, worker_id: WorkerId) -> None: ...
    def vanish(self, worker_id: WorkerId) -> None: ...
    async def create_only(self, launch: WorkerLaunch) -> None: ...


class FakeBox:
    def __init__(self) -> None:
        self.image = PinnedImage(reference="app:1", pin="sha256:" + "a" * 64)
        self._fake = FakeRuntime(
            wall_ns=time.time_ns, rng=random.Random(1), has_image=lambda pin: pin == self.image.pin
        )
        self.runtime: ContainerRuntime = self._fake

    def kill(self, worker_id: WorkerId) -> None:
        self._fake.crash(worker_id, exit_code=KILLED)

    def vanish(self, worker_id: WorkerId) -> None:
        self._fake.vanish(worker_id)

    async def create_only(self, launch: WorkerLaunch) -> None:
        refusal = LaunchFailed("The engine was restarted.")
        self._fake.faults.inject("start_worker", Fault(kind=FaultKind.HALFWAY, error=refusal))
        with pytest.raises(LaunchFailed):
            await self.runtime.start_worker(launch)


class DockerBox:
    def __init__(self, engine: Engine, image: str, threads: Threads) -> None:
        self._api = engine.client.api
        self.image = PinnedImage(reference=image, pin=self._api.inspect_image(image)["Id"])
        settings = DockerSettings(host=engine.socket_url, network=NETWORK)
        self.docker = DockerRuntime(settings, INSTALL, threads)
        self.runtime: ContainerRuntime = self.docker

    def kill(self, worker_id: WorkerId) -> None:
        self._api.kill(container_name(worker_id))

    def vanish(self, worker_id: WorkerId) -> None:
        self._api.remove_container(container_name(worker_id), force=True)

    async def create_only(self, launch: WorkerLaunch) -> None:
        await self.runtime.start_worker(launch)
        made = self._api.inspect_container(container_name(launch.worker_id))
        self._api.remove_container(made["Id"], force=True)
        body = made["Config"] | {"HostConfig": made["HostConfig"], "Hostname": ""}
        self._api.create_container_from_config(body, name=container_name(launch.worker_id))


@asynccontextmanager
async def docker_box(engine: Engine, image: str) -> AsyncIterator[DockerBox]:
    threads = Threads(8)
    box = DockerBox(engine, image, threads)
    try:
        await box.runtime.prepare()
        yield box
    finally:
        engine.remove_everything(label=f"gpud.install={INSTALL}")
        await box.docker.close()
        assert await threads.close()


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.engine)])
async def box(request: pytest.FixtureRequest) -> AsyncIterator[Box]:
    if request.param == "fake":
        yield FakeBox()
        return
    engine: Engine = request.getfixturevalue("engine")
    async with docker_box(engine, request.getfixturevalue("worker_image")) as made:
        yield made


def launch_of(box: Box, worker_id: WorkerId = WORKER, **changes: Any) -> WorkerLaunch:
    facts: dict[str, Any] = {
        "worker_id": worker_id,
        "endpoint": EndpointName("echo"),
        "revision": Revision("0123456789ab"),
        "generation": 1,
        "image": box.image,
        "port": 8000,
        "gpu_uuids": (GPU,),
    }
    return WorkerLaunch(**(facts | changes))


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110  # It is asked of a real engine.
            await asyncio.sleep(0.01)


async def has_exited(box: Box, worker_id: WorkerId = WORKER) -> bool:
    seen = await box.runtime.inspect_worker(worker_id)
    return seen is not None and seen.status is ContainerStatus.EXITED


async def test_the_engine_says_who_it_is(box: Box) -> None:
    info = await box.runtime.ping()
    assert info.version
    assert info.api_version


async def test_a_started_worker_runs_has_an_address_and_tells_what_it_is(box: Box) -> None:
    before_ns = time.time_ns()
    started = await box.runtime.start_worker(launch_of(box))
    assert started.status is ContainerStatus.RUNNING
    assert (started.worker_id, started.endpoint) == (WORKER, "echo")
    assert (started.revision, started.generation, started.gpu_uuids) == ("0123456789ab", 1, (GPU,))
    assert started.address.count(".") == 3
    assert started.pid > 0
    assert before_ns <= started.created_ns <= started.started_ns <= time.time_ns()
    assert (started.finished_ns, started.exit_code, started.out_of_memory) == (0, None, False)
    again = await box.runtime.inspect_worker(WORKER)
    assert again is not None
    assert (again.address, again.started_ns) == (started.address, started.started_ns)


async def test_starting_a_worker_twice_adopts_the_first_container(box: Box) -> None:
    first = await box.runtime.start_worker(launch_of(box))
    second = await box.runtime.start_worker(launch_of(box))
    assert (second.pid, second.started_ns, second.create_s) == (first.pid, first.started_ns, 0.0)
    assert len(await box.runtime.list_workers()) == 1


async def test_starts_of_one_worker_at_the_same_time_make_one_container(box: Box) -> None:
    seen = await asyncio.gather(*(box.runtime.start_worker(launch_of(box)) for _ in range(4)))
    assert {each.pid for each in seen} == {seen[0].pid}
    assert len(await box.runtime.list_workers()) == 1


async def test_a_container_that_was_created_and_not_started_is_started(box: Box) -> None:
    await box.create_only(launch_of(box))
    left = await box.runtime.inspect_worker(WORKER)
    assert left is not None
    assert (left.status, left.started_ns, left.address) == (ContainerStatus.CREATED, 0, "")
    started = await box.runtime.start_worker(launch_of(box))
    assert started.status is ContainerStatus.RUNNING


async def test_a_container_of_another_generation_is_refused_for_good_and_left_alone(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box))
    with pytest.raises(LaunchFailed) as refused:
        await box.runtime.start_worker(launch_of(box, generation=2))
    assert refused.value.permanent
    left = await box.runtime.inspect_worker(WORKER)
    assert left is not None
    assert left.generation == 1


async def test_an_image_that_is_not_on_the_box_is_not_found(box: Box) -> None:
    gone = PinnedImage(reference="gone:1", pin="sha256:" + "0" * 64)
    with pytest.raises(ImageNotFound):
        await box.runtime.start_worker(launch_of(box, image=gone))
    assert await box.runtime.inspect_worker(WORKER) is None


async def test_a_container_that_exits_at_once_keeps_its_exit_code_and_times(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box, env=(("EXIT_AT_START", "3"),)))
    await until(lambda: has_exited(box))
    seen = await box.runtime.inspect_worker(WORKER)
    assert seen is not None
    assert (seen.exit_code, seen.out_of_memory, seen.address, seen.pid) == (3, False, "", 0)
    assert seen.started_ns <= seen.finished_ns <= time.time_ns()


async def test_an_exited_container_is_not_started_again(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box, env=(("EXIT_AT_START", "3"),)))
    await until(lambda: has_exited(box))
    first = await box.runtime.inspect_worker(WORKER)
    again = await box.runtime.start_worker(launch_of(box, env=(("EXIT_AT_START", "3"),)))
    assert again.status is ContainerStatus.EXITED
    assert first is not None
    assert again.started_ns == first.started_ns


async def test_a_stopped_worker_has_exited_and_stopping_it_again_changes_nothing(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box))
    stopped = await box.runtime.stop_worker(WORKER, grace_s=10.0)
    assert stopped is not None
    assert stopped.status is ContainerStatus.EXITED
    assert stopped.finished_ns >= stopped.started_ns > 0
    again = await box.runtime.stop_worker(WORKER, grace_s=10.0)
    assert again is not None
    assert (again.finished_ns, again.exit_code) == (stopped.finished_ns, stopped.exit_code)


async def test_a_worker_that_ignores_the_signal_is_killed_after_the_grace_time(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box, env=(("IGNORE_SIGTERM", "1"),)))

    async def handles_signals() -> bool:
        return "listening" in await box.runtime.log_tail(WORKER, bytes_max=10_000)

    await until(handles_signals)
    begun_s = time.monotonic()
    stopped = await box.runtime.stop_worker(WORKER, grace_s=1.0)
    assert time.monotonic() - begun_s >= 1.0
    assert stopped is not None
    assert stopped.exit_code == KILLED


async def test_without_grace_time_a_worker_is_killed_at_once(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box, env=(("IGNORE_SIGTERM", "1"),)))
    begun_s = time.monotonic()
    stopped = await box.runtime.stop_worker(WORKER, grace_s=0.0)
    assert time.monotonic() - begun_s < 5.0
    assert stopped is not None
    assert stopped.exit_code in (KILLED, TERMINATED)


async def test_what_is_not_there_is_none_empty_or_fine(box: Box) -> None:
    assert await box.runtime.inspect_worker(WORKER) is None
    assert await box.runtime.stop_worker(WORKER, grace_s=1.0) is None
    assert await box.runtime.log_tail(WORKER, bytes_max=100) == ""
    assert await box.runtime.pids(WORKER) == ()
    assert await box.runtime.list_workers() == ()
    await box.runtime.remove_worker(WORKER)


async def test_a_removed_worker_is_gone_whether_it_ran_or_not(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box))
    await asyncio.gather(box.runtime.remove_worker(WORKER), box.runtime.remove_worker(WORKER))
    assert await box.runtime.inspect_worker(WORKER) is None
    await box.create_only(launch_of(box))
    await box.runtime.remove_worker(WORKER)
    assert await box.runtime.list_workers() == ()


async def test_the_list_has_every_worker_running_or_not(box: Box) -> None:
    exits, runs = WorkerId("wk_" + "b" * 16), WorkerId("wk_" + "c" * 16)
    await box.create_only(launch_of(box))
    await box.runtime.start_worker(launch_of(box, exits, env=(("EXIT_AT_START", "0"),)))
    await box.runtime.start_worker(launch_of(box, runs))
    await until(lambda: has_exited(box, exits))
    for _ in range(2):  # The second time some of it may be remembered.
        listed = {seen.worker_id: seen for seen in await box.runtime.list_workers()}
        assert {worker_id: seen.status for worker_id, seen in listed.items()} == {
            WORKER: ContainerStatus.CREATED,
            exits: ContainerStatus.EXITED,
            runs: ContainerStatus.RUNNING,
        }
        assert listed[runs] == await box.runtime.inspect_worker(runs)
    box.kill(runs)
    await until(lambda: has_exited(box, runs))
    after = {seen.worker_id: seen for seen in await box.runtime.list_workers()}
    assert after[runs].exit_code == KILLED


async def test_what_a_container_does_shows_in_its_activity(box: Box) -> None:
    assert await box.runtime.activity(WORKER) is None
    await box.runtime.start_worker(launch_of(box))

    async def listens() -> bool:
        return "listening" in await box.runtime.log_tail(WORKER, bytes_max=10_000)

    await until(listens)
    before = await box.runtime.activity(WORKER)
    assert before is not None
    assert before.log_mark
    assert before.memory_bytes
    assert before.cpu_s is not None

    async def used_cpu() -> bool:
        after = await box.runtime.activity(WORKER)
        return after is not None and after.cpu_s is not None and after.cpu_s > (before.cpu_s or 0.0)

    await until(used_cpu)  # its log's task wakes up ten times a second
    await box.runtime.stop_worker(WORKER, grace_s=0.0)
    assert await box.runtime.activity(WORKER) is None


async def test_a_line_written_changes_the_mark_of_the_log(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box, env=(("IGNORE_SIGTERM", "1"),)))

    async def listens() -> bool:
        return "listening" in await box.runtime.log_tail(WORKER, bytes_max=10_000)

    await until(listens)
    before = await box.runtime.activity(WORKER)
    again = await box.runtime.activity(WORKER)
    assert before is not None
    assert again is not None
    assert again.log_mark == before.log_mark


async def test_the_log_tail_ends_with_the_last_output(box: Box) -> None:
    await box.runtime.start_worker(launch_of(box))

    async def has_output() -> bool:
        return "listening" in await box.runtime.log_tail(WORKER, bytes_max=10_000)

    await until(has_output)
    whole = await box.runtime.log_tail(WORKER, bytes_max=10_000)
    assert whole.endswith(await box.runtime.log_tail(WORKER, bytes_max=5))
    assert len(await box.runtime.log_tail(WORKER, bytes_max=5)) == 5


async def test_the_pids_of_a_running_worker_hold_its_first_process(box: Box) -> None:
    started = await box.runtime.start_worker(launch_of(box))
    assert started.pid in await box.runtime.pids(WORKER)
    box.kill(WORKER)
    await until(lambda: has_exited(box))
    assert await box.runtime.pids(WORKER) == ()


async def test_watching_tells_of_starts_ends_and_removals(box: Box) -> None:
    heard: asyncio.Queue[WorkerId] = asyncio.Queue()

    async def watch() -> None:
        async with aclosing(box.runtime.watch()) as hints:
            async for worker_id in hints:
                heard.put_nowait(worker_id)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)  # So that it has begun.
    await box.runtime.start_worker(launch_of(box))
    assert await asyncio.wait_for(heard.get(), 10) == WORKER
    box.kill(WORKER)
    assert await asyncio.wait_for(heard.get(), 10) == WORKER
    await until(lambda: has_exited(box))
    box.vanish(WORKER)
    assert await asyncio.wait_for(heard.get(), 10) == WORKER
    begun_s = time.monotonic()
    watching.cancel()
    await asyncio.wait([watching])
    assert time.monotonic() - begun_s < 1.0


async def test_a_start_whose_caller_was_cancelled_can_be_repeated(box: Box) -> None:
    for pause_s in (0.0, 0.01, 0.1):
        begun = asyncio.create_task(box.runtime.start_worker(launch_of(box)))
        await asyncio.sleep(pause_s)
        begun.cancel()
        await asyncio.wait([begun])
        started = await box.runtime.start_worker(launch_of(box))
        assert started.status is ContainerStatus.RUNNING
        assert len(await box.runtime.list_workers()) == 1
        await box.runtime.remove_worker(WORKER)
