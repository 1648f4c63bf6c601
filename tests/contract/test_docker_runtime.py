"""What only a real Docker Engine shows: isolation, limits, GPUs, refusals, and an engine that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import NotFound
from docker.types import IPAMConfig, IPAMPool

from gpud.adapters.docker_launch import KEPT_CAPABILITIES
from gpud.adapters.docker_runtime import DockerRuntime
from gpud.adapters.threads import Threads
from gpud.core.endpoint import PinnedImage, Volume
from gpud.core.gpu import GpuAttach
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId, container_name
from gpud.errors import BadSettings, DependencyDown, LaunchFailed
from gpud.ports.containers import ContainerStatus, WorkerLaunch
from gpud.settings import DockerSettings
from tests.rig.engine import PrivateEngine
from tests.rig.images import STATIC_IMAGE, build_image, ensure_static_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gpud.ports.containers import SeenContainer
    from tests.rig.engine import Engine

pytestmark = [pytest.mark.engine, pytest.mark.long]

NETWORK = "gpud-real"
INSTALL = "real"
WORKER, OTHER = WorkerId("wk_" + "a" * 16), WorkerId("wk_" + "b" * 16)
GPU = GpuUuid("GPU-real-1")
ODD_IMAGES = ("gpud/rig-greedy:1", "gpud/rig-broken:0", "gpud/rig-broken:1")


@asynccontextmanager
async def runtime_on(
    engine: Engine, *, install: str = INSTALL, volume_roots: tuple[Path, ...] = (), **settings: Any
) -> AsyncIterator[DockerRuntime]:
    threads = Threads(8)
    told: dict[str, Any] = {"host": engine.socket_url, "network": NETWORK}
    docker = DockerSettings(**(told | settings))
    runtime = DockerRuntime(docker, install, threads, volume_roots=volume_roots)
    try:
        yield runtime
    finally:
        if engine.answers():
            engine.remove_everything(label=f"gpud.install={install}")
        await runtime.close()
        await threads.close()


@pytest.fixture
async def runtime(engine: Engine) -> AsyncIterator[DockerRuntime]:
    async with runtime_on(engine) as made:
        await made.prepare()
        yield made
    for name in ODD_IMAGES:
        with contextlib.suppress(NotFound):
            engine.client.api.remove_image(name, force=True)


@pytest.fixture
def image(engine: Engine, worker_image: str) -> PinnedImage:
    return PinnedImage(reference=worker_image, pin=engine.client.api.inspect_image(worker_image)["Id"])


def launch_of(image: PinnedImage, worker_id: WorkerId = WORKER, **changes: Any) -> WorkerLaunch:
    facts: dict[str, Any] = {
        "worker_id": worker_id,
        "endpoint": EndpointName("echo"),
        "revision": Revision("0123456789ab"),
        "generation": 1,
        "image": image,
        "port": 8000,
    }
    return WorkerLaunch(**(facts | changes))


def inspected(engine: Engine, worker_id: WorkerId = WORKER) -> dict[str, Any]:
    found: dict[str, Any] = engine.client.api.inspect_container(container_name(worker_id))
    return found


async def until(condition: Callable[[], Awaitable[Any]], *, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110  # It is asked of a real engine.
            await asyncio.sleep(0.02)


async def exited(runtime: DockerRuntime, worker_id: WorkerId = WORKER) -> SeenContainer:
    seen: list[SeenContainer] = []

    async def has_exited() -> bool:
        found = await runtime.inspect_worker(worker_id)
        if found is not None and found.status is ContainerStatus.EXITED:
            seen.append(found)
        return bool(seen)

    await until(has_exited)
    return seen[0]


async def output_of(runtime: DockerRuntime, image: PinnedImage, script: str, **changes: Any) -> str:
    """What a shell script prints in a worker's container."""
    await runtime.start_worker(launch_of(image, command=("sh", "-c", script), **changes))
    await exited(runtime)
    output = await runtime.log_tail(WORKER, bytes_max=10_000)
    await runtime.remove_worker(WORKER)
    return output.strip()


def connects(address: str, port: int = 8000) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1.0)
        return connection.connect_ex((address, port)) == 0


# What a container is made of.


async def test_a_container_has_the_labels_limits_and_no_more_rights_than_said(
    runtime: DockerRuntime, engine: Engine, image: PinnedImage
) -> None:
    launch = launch_of(
        image, gpu_uuids=(GPU,), memory_mib=128, cpus=0.5, shm_mib=8, pids=64, cpuset="0", memory_nodes="0"
    )
    await runtime.start_worker(launch)
    made = inspected(engine)
    labels = {
        "gpud.install": INSTALL,
        "gpud.worker": WORKER,
        "gpud.endpoint": "echo",
        "gpud.revision": "0123456789ab",
        "gpud.generation": "1",
        "gpud.gpus": GPU,
    }
    assert labels.items() <= made["Config"]["Labels"].items()  # The image has labels, too.
    host = made["HostConfig"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert (host["AutoRemove"], host["Init"], host["Privileged"]) == (False, True, False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["CapDrop"] == ["ALL"]
    assert (host["Memory"], host["MemorySwap"]) == (128 << 20, 128 << 20)
    assert (host["NanoCpus"], host["ShmSize"], host["PidsLimit"]) == (500_000_000, 8 << 20, 64)
    assert (host["CpusetCpus"], host["CpusetMems"]) == ("0", "0")
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "16m", "max-file": "2"}}
    assert not host["PortBindings"]
    assert not host["Binds"]
    assert made["NetworkSettings"]["Ports"] in ({}, {"8000/tcp": None})
    assert list(made["NetworkSettings"]["Networks"]) == [NETWORK]


async def test_a_process_has_only_the_kept_capabilities_and_cannot_gain_any(
    runtime: DockerRuntime, image: PinnedImage
) -> None:
    status = await output_of(runtime, image, "grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status")
    facts = dict(line.split(":\t") for line in status.splitlines())
    numbers = {
        "CHOWN": 0,
        "DAC_OVERRIDE": 1,
        "FOWNER": 3,
        "KILL": 5,
        "SETGID": 6,
        "SETUID": 7,
        "NET_BIND_SERVICE": 10,
    }
    assert set(numbers) == set(KEPT_CAPABILITIES)
    kept = sum(1 << number for number in numbers.values())
    assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == kept
    assert facts["NoNewPrivs"] == "1"


async def test_a_worker_that_became_another_user_still_gets_the_stop_signal(
    runtime: DockerRuntime, image: PinnedImage
) -> None:
    program = (
        "import os, signal, sys, time\n"
        "os.setgid(1234); os.setuid(1234)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    await runtime.start_worker(launch_of(image, command=("python3", "-c", program)))

    async def ready() -> bool:
        return "ready" in await runtime.log_tail(WORKER, bytes_max=100)

    await until(ready)
    stopped = await runtime.stop_worker(WORKER, grace_s=30.0)
    assert stopped is not None
    assert stopped.exit_code == 7


async def test_the_host_reaches_workers_and_workers_do_not_reach_each_other(
    runtime: DockerRuntime, image: PinnedImage
) -> None:
    served = await runtime.start_worker(launch_of(image, OTHER))

    async def listens() -> bool:
        return connects(served.address)

    await until(listens)
    program = (
        "import socket\n"
        "connection = socket.socket(); connection.settimeout(2)\n"
        f"print(connection.connect_ex(('{served.address}', 8000)) == 0)\n"
    )
    await runtime.start_worker(launch_of(image, command=("python3", "-c", program)))
    await exited(runtime)
    assert (await runtime.log_tail(WORKER, bytes_max=100)).strip() == "False"


# GPUs.


def images_that_wants_all_gpus(engine: Engine, worker_image: str) -> PinnedImage:
    dockerfile = f"FROM {worker_image}\nENV NVIDIA_VISIBLE_DEVICES=all\n"
    name = build_image(engine, ODD_IMAGES[0], {"Dockerfile": dockerfile.encode()})
    return PinnedImage(reference=name, pin=engine.client.api.inspect_image(name)["Id"])


@pytest.mark.parametrize(
    ("attach", "uuids", "visible"),
    [
        (GpuAttach.DEVICE_REQUEST, (GPU,), GPU),
        (GpuAttach.AUTO, (GPU, GpuUuid("MIG-real-2")), f"{GPU},MIG-real-2"),
        (GpuAttach.NONE, (GPU,), GPU),
        (GpuAttach.DEVICE_REQUEST, (), "void"),
        (GpuAttach.NONE, (), "void"),
    ],
)
async def test_an_image_cannot_widen_what_gpus_its_worker_sees(  # noqa: PLR0917  # Fixtures and rows.
    runtime: DockerRuntime,
    engine: Engine,
    worker_image: str,
    attach: GpuAttach,
    uuids: tuple[GpuUuid, ...],
    visible: str,
) -> None:
    greedy = images_that_wants_all_gpus(engine, worker_image)
    program = (
        "lines = open('/proc/self/environ').read().split(chr(0))\n"
        "print(*(line for line in lines if line.startswith('NVIDIA_VISIBLE_DEVICES=')), sep=chr(10))"
    )
    output = await output_of(
        runtime, greedy, f'exec python3 -c "{program}"', gpu_attach=attach, gpu_uuids=uuids
    )
    # Every line, for the engine may add the variable a second time.
    assert set(output.splitlines()) == {f"NVIDIA_VISIBLE_DEVICES={visible}"}


async def test_a_device_request_names_exactly_the_leased_gpus(
    runtime: DockerRuntime, engine: Engine, image: PinnedImage
) -> None:
    await runtime.start_worker(launch_of(image, gpu_uuids=(GPU,)))
    requests = inspected(engine)["HostConfig"]["DeviceRequests"]
    assert [(each["Driver"], each["DeviceIDs"], each["Capabilities"]) for each in requests] == [
        ("nvidia", [GPU], [["gpu"]])
    ]


async def test_an_engine_that_does_not_know_the_way_of_attaching_says_what_to_do(
    runtime: DockerRuntime, image: PinnedImage
) -> None:
    with pytest.raises(LaunchFailed, match=r"gpus\.attach") as refused:
        await runtime.start_worker(launch_of(image, gpu_uuids=(GPU,), gpu_attach=GpuAttach.CDI))
    assert refused.value.permanent


# Failures of containers.


@pytest.mark.parametrize(("command", "code"), [(("/nope",), 127), (("/etc/passwd",), 126)])
async def test_a_command_that_cannot_run_ends_the_container_with_a_reason(
    runtime: DockerRuntime, image: PinnedImage, command: tuple[str, ...], code: int
) -> None:
    await runtime.start_worker(launch_of(image, command=command))
    seen = await exited(runtime)
    assert seen.exit_code == code
    assert "its command" in seen.error
    assert command[0] in await runtime.log_tail(WORKER, bytes_max=1000)


async def test_more_memory_than_allowed_is_told_as_out_of_memory(
    runtime: DockerRuntime, image: PinnedImage
) -> None:
    program = "x = bytearray(256 << 20); print(len(x))"
    await runtime.start_worker(launch_of(image, command=("python3", "-c", program), memory_mib=32))
    seen = await exited(runtime)
    assert (seen.out_of_memory, seen.exit_code) == (True, 137)
    assert "memory" in seen.error


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cpus": 4000.0}, "limits.cpus"),
        ({"cpuset": "4000"}, "CPUs"),
        ({"volumes": (Volume(source="a b", target="/x"),)}, "volume"),
        ({"volumes": (Volume(source="/etc", target="/x"),)}, "paths.volume_roots"),
    ],
)
async def test_what_can_never_start_is_refused_for_good_with_advice(
    runtime: DockerRuntime, image: PinnedImage, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(LaunchFailed) as refused:
        await runtime.start_worker(launch_of(image, **changes))
    assert refused.value.permanent
    assert says in refused.value.detail


async def test_an_image_without_a_command_or_user_it_names_is_refused_for_good(
    runtime: DockerRuntime, engine: Engine, worker_image: str
) -> None:
    for number, lines in enumerate(("USER nobody-here", "CMD []\nENTRYPOINT []")):
        dockerfile = f"FROM {worker_image}\n{lines}\n"
        name = build_image(engine, f"gpud/rig-broken:{number}", {"Dockerfile": dockerfile.encode()})
        broken = PinnedImage(reference=name, pin=engine.client.api.inspect_image(name)["Id"])
        with pytest.raises(LaunchFailed) as refused:
            await runtime.start_worker(launch_of(broken))
        assert refused.value.permanent, refused.value.detail
        await runtime.remove_worker(WORKER)


# Volumes.


async def test_volumes_are_mounted_from_allowed_paths_and_by_name(
    engine: Engine, image: PinnedImage, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights").write_text("here\n")
    volumes = (
        Volume(source=str(tmp_path / "models"), target="/models", read_only=True),
        Volume(source="gpud-real-cache", target="/cache"),
    )
    async with runtime_on(engine, volume_roots=(tmp_path,)) as runtime:
        await runtime.prepare()
        script = "cat /models/weights; touch /models/x 2>&- || echo refused; touch /cache/x && echo kept"
        output = await output_of(runtime, image, script, volumes=volumes)
        engine.client.api.remove_volume("gpud-real-cache")
    assert output.split() == ["here", "refused", "kept"]


async def test_a_link_out_of_the_allowed_paths_and_the_engines_socket_are_refused(
    engine: Engine, image: PinnedImage, tmp_path: Path
) -> None:
    (tmp_path / "out").symlink_to("/etc")
    sources = {
        str(tmp_path / "out"): "outside",
        f"{tmp_path}{'/..' * 20}/etc": "outside",
        "models/x": "relative",
    }
    async with runtime_on(engine, volume_roots=(tmp_path,)) as runtime:
        for source, says in sources.items():
            launch = launch_of(image, volumes=(Volume(source=source, target="/x"),))
            with pytest.raises(LaunchFailed, match=says):
                await runtime.start_worker(launch)
    async with runtime_on(engine, volume_roots=(Path("/"),)) as runtime:
        for source in ("/", str(engine.socket_path.parent), str(engine.socket_path)):
            launch = launch_of(image, volumes=(Volume(source=source, target="/x"),))
            with pytest.raises(LaunchFailed, match="engine's socket"):
                await runtime.start_worker(launch)


# The network.


async def test_the_network_is_made_once_and_keeps_workers_apart(engine: Engine) -> None:
    async with runtime_on(engine) as runtime:
        await asyncio.gather(*(runtime.prepare() for _ in range(3)))
        found = engine.client.api.networks(names=[NETWORK])
        assert len(found) == 1
        assert found[0]["Options"]["com.docker.network.bridge.enable_icc"] == "false"
        assert found[0]["Labels"] == {"gpud.install": INSTALL}


async def test_a_subnet_is_obeyed_and_a_network_with_another_one_is_refused(engine: Engine) -> None:
    async with runtime_on(engine, subnet="10.251.7.0/24") as runtime:
        await runtime.prepare()
        await runtime.prepare()
        pools = engine.client.api.inspect_network(NETWORK)["IPAM"]["Config"]
        assert pools[0]["Subnet"] == "10.251.7.0/24"
        async with runtime_on(engine, subnet="10.251.8.0/24", install="second") as second:
            with pytest.raises(BadSettings, match=r"10\.251\.7\.0/24"):
                await second.prepare()
        async with runtime_on(engine, subnet="10.251.7.0/25", network="gpud-overlaps") as other:
            with pytest.raises(BadSettings, match=r"docker\.subnet"):
                await other.prepare()


async def test_a_network_of_another_making_is_refused_and_left_alone(engine: Engine) -> None:
    api = engine.client.api
    for options, labels in (
        ({"com.docker.network.bridge.enable_icc": "false"}, {}),
        ({}, {"gpud.install": INSTALL}),
    ):
        pool = IPAMConfig(pool_configs=[IPAMPool(subnet="10.251.9.0/24")])
        made = api.create_network(NETWORK, driver="bridge", options=options, labels=labels, ipam=pool)
        try:
            async with runtime_on(engine, install="second") as runtime:
                with pytest.raises(BadSettings, match=r"docker network rm") as refused:
                    await runtime.prepare()
            assert "docker.network" in refused.value.fields
            assert api.inspect_network(NETWORK)["Id"] == made["Id"]
        finally:
            api.remove_network(made["Id"])


async def test_a_network_that_somebody_removed_is_made_again_by_the_next_start(
    runtime: DockerRuntime, engine: Engine, image: PinnedImage
) -> None:
    engine.client.api.remove_network(NETWORK)
    started = await runtime.start_worker(launch_of(image))
    assert started.address


# Other people's containers.


async def test_containers_of_others_are_neither_listed_nor_touched(
    runtime: DockerRuntime, engine: Engine, image: PinnedImage
) -> None:
    async with runtime_on(engine, install="second") as second:
        await second.start_worker(launch_of(image))
        assert await runtime.list_workers() == ()
        assert await runtime.inspect_worker(WORKER) is None
        assert await runtime.stop_worker(WORKER, grace_s=0.0) is None
        await runtime.remove_worker(WORKER)
        assert await runtime.pids(WORKER) == ()
        with pytest.raises(LaunchFailed, match="docker rm") as refused:
            await runtime.start_worker(launch_of(image))
        assert refused.value.permanent
        left = await second.inspect_worker(WORKER)
        assert left is not None
        assert left.status is ContainerStatus.RUNNING
    by_hand = engine.client.api.create_container_from_config(
        {"Image": image.pin, "Labels": {"gpud.install": INSTALL}}, name="gpud-by-hand"
    )
    try:
        assert await runtime.list_workers() == ()
    finally:
        engine.client.api.remove_container(by_hand["Id"])


# An engine that goes away.


async def test_an_engine_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    threads = Threads(2)
    for host, says in (
        (f"unix://{tmp_path}/nobody.sock", "socket does not exist"),
        ("tcp://127.0.0.1:9", "nothing listens"),
    ):
        runtime = DockerRuntime(DockerSettings(host=host), INSTALL, threads)
        with pytest.raises(DependencyDown, match=says):
            await runtime.ping()
        with pytest.raises(DependencyDown, match=says):
            await anext(runtime.watch())
        await runtime.close()
    await threads.close()


async def test_a_frozen_engine_fails_each_call_at_its_limit_and_serves_again_when_it_thaws(
    breakable_engine: PrivateEngine,
) -> None:
    async with runtime_on(breakable_engine, call_timeout_s=1.0) as runtime:
        await runtime.ping()
        breakable_engine.freeze()
        begun_s = time.monotonic()
        calls = [runtime.ping(), runtime.list_workers(), runtime.inspect_worker(WORKER)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - begun_s < 5.0
        assert all(isinstance(each, DependencyDown) and "in time" in each.detail for each in outcomes)
        breakable_engine.thaw()
        assert (await runtime.ping()).version


async def test_a_restarted_engine_is_used_again_and_its_events_stream_ended(
    breakable_engine: PrivateEngine,
) -> None:
    from tests.rig.images import ensure_static_image  # noqa: PLC0415  # For this engine, not the shared one.

    name = ensure_static_image(breakable_engine)
    pin = breakable_engine.client.api.inspect_image(name)["Id"]
    image = PinnedImage(reference=name, pin=pin)
    async with runtime_on(breakable_engine) as runtime:
        await runtime.prepare()
        heard: asyncio.Queue[WorkerId] = asyncio.Queue()

        async def watch() -> None:
            async with aclosing(runtime.watch()) as hints:
                async for worker_id in hints:
                    heard.put_nowait(worker_id)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        started = await runtime.start_worker(launch_of(image))
        assert await asyncio.wait_for(heard.get(), 10) == WORKER
        await asyncio.to_thread(breakable_engine.kill)
        done, _ = await asyncio.wait([watching], timeout=5.0)
        assert watching in done
        assert watching.exception() is None or isinstance(watching.exception(), DependencyDown)
        with pytest.raises(DependencyDown):
            await runtime.list_workers()
        breakable_engine.start()  # Not on another thread: the engine ends with the thread it came from.
        (seen,) = await runtime.list_workers()
        assert (seen.worker_id, seen.started_ns) == (WORKER, started.started_ns)


async def test_an_engine_that_speaks_another_version_now_is_asked_again(
    runtime: DockerRuntime, image: PinnedImage
) -> None:
    for again in (runtime.list_workers, lambda: runtime.start_worker(launch_of(image))):
        runtime._clients.pin_version("1.99")
        with pytest.raises(DependencyDown, match="too new"):
            await again()
        await again()


async def test_leaving_the_event_stream_frees_its_thread_at_once(runtime: DockerRuntime) -> None:
    import threading  # noqa: PLC0415  # Only to look.

    for _ in range(5):
        watching = asyncio.create_task(anext(runtime.watch()))
        await asyncio.sleep(random.Random(1).uniform(0.0, 0.05))
        watching.cancel()
        await asyncio.wait([watching])

    async def none_left() -> bool:
        return not [each for each in threading.enumerate() if each.name == "gpud-events"]

    await until(none_left, timeout_s=5.0)


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


async def test_crun_is_used_where_it_is_registered_and_runc_where_crun_cannot(tmp_path: Path) -> None:
    """Under the name crun the engine has a runtime that works, and then one that does not."""
    with PrivateEngine() as engine:
        crun = write_program(tmp_path / "crun", '#!/bin/sh\nexec runc "$@"\n')
        engine.halt()
        engine.runtimes = {"crun": crun}
        engine.start()
        ensure_static_image(engine)
        image = PinnedImage(reference=STATIC_IMAGE, pin=engine.client.images.get(STATIC_IMAGE).id)
        async with runtime_on(engine) as runtime:
            assert (await runtime.ping()).runtime == "crun"
            await runtime.prepare()
            assert (await runtime.start_worker(launch_of(image))).status is ContainerStatus.RUNNING
            container = engine.client.containers.get(container_name(WORKER))
            assert container.attrs["HostConfig"]["Runtime"] == "crun"
            await runtime.remove_worker(WORKER)
            write_program(crun, "#!/bin/sh\necho no cgroups for me >&2\nexit 1\n")
            assert (await runtime.start_worker(launch_of(image))).status is ContainerStatus.RUNNING
            container = engine.client.containers.get(container_name(WORKER))
            assert container.attrs["HostConfig"]["Runtime"] == "runc"
            assert (await runtime.ping()).runtime == ""
            await runtime.remove_worker(WORKER)
