"""What only a real Docker Engine and real registries show: bytes on the wire, prunes, full disks."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import subprocess
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gpud.adapters.docker_images import DockerImages
from gpud.adapters.threads import Threads
from gpud.core.endpoint import PinnedImage
from gpud.errors import DependencyDown, ImageNotFound, ImagePullFailed, RegistryDenied
from gpud.settings import DockerSettings
from tests.rig.engine import PrivateEngine
from tests.rig.images import build_image
from tests.rig.throttle import ThrottlingProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from gpud.ports.images import PullProgress
    from tests.rig.engine import Engine
    from tests.rig.registry import Registry

pytestmark = pytest.mark.engine

LAYER_BYTES = 2_000_000
NUMBERS = itertools.count(1)


def unheard(_: PullProgress) -> None:
    pass


@asynccontextmanager
async def images_on(engine: Engine, **settings: Any) -> AsyncIterator[DockerImages]:
    threads = Threads(4)
    images = DockerImages(DockerSettings(host=engine.socket_url, **settings), threads)
    try:
        yield images
    finally:
        await images.close()
        await threads.close()


def push(engine: Engine, registry: Registry, *, layers: int = 2, layer_bytes: int = LAYER_BYTES) -> str:
    """Put an image that nobody else has into a registry, not on the engine; returns `repository@digest`."""
    names = [f"layer{number}" for number in range(layers)]
    dockerfile = "FROM scratch\n" + "".join(f"COPY {name} /\n" for name in names) + 'CMD ["/none"]\n'
    files = {name: os.urandom(layer_bytes) for name in names} | {"Dockerfile": dockerfile.encode()}
    local = f"gpud/rig-push-{os.getpid()}-{next(NUMBERS)}:1"
    build_image(engine, local, files)
    pushed = registry.push(engine, local, f"team/bytes-{os.getpid()}-{next(NUMBERS)}", "1")
    engine.client.api.remove_image(local, force=True)
    return pushed


def through(proxy: ThrottlingProxy, pushed: str) -> PinnedImage:
    repository = pushed.partition("/")[2]
    return PinnedImage(reference=f"team/app:{next(NUMBERS)}", pin=f"127.0.0.1:{proxy.port}/{repository}")


@pytest.fixture
def proxy(registry: Registry) -> Iterator[ThrottlingProxy]:
    with ThrottlingProxy(registry.port) as made:
        yield made


def remove(engine: Engine, image: PinnedImage) -> None:
    found = engine.client.api.inspect_image(image.pin)
    engine.client.api.remove_image(found["Id"], force=True)


async def test_a_slow_pull_that_moves_is_not_a_stalled_one(
    engine: Engine, registry: Registry, proxy: ThrottlingProxy
) -> None:
    image = through(proxy, push(engine, registry))
    proxy.bytes_per_s = 1_500_000
    async with images_on(engine, pull_stall_timeout_s=1.0) as images:
        begun_s = time.monotonic()
        heard: list[PullProgress] = []
        await images.pull(image, None, heard.append)
    assert time.monotonic() - begun_s > 2.0
    assert len(heard) > 5
    remove(engine, image)


async def test_a_pull_that_stops_halfway_names_the_limit_and_goes_on_at_the_next_try(
    engine: Engine, registry: Registry, proxy: ThrottlingProxy
) -> None:
    image = through(proxy, push(engine, registry))
    proxy.bytes_per_s = 1_500_000

    def stall_halfway(progress: PullProgress) -> None:
        proxy.stalled = progress.bytes_done > LAYER_BYTES // 2

    async with images_on(engine, pull_stall_timeout_s=1.0) as images:
        with pytest.raises(ImagePullFailed, match=r"docker\.pull_stall_timeout_s"):
            await images.pull(image, None, stall_halfway)
        proxy.stalled, proxy.bytes_per_s = False, None
        await images.pull(image, None, unheard)
        assert await images.present(image)
    remove(engine, image)


async def test_the_engine_stops_loading_when_the_last_waiter_leaves(
    engine: Engine, registry: Registry, proxy: ThrottlingProxy
) -> None:
    image = through(proxy, push(engine, registry, layer_bytes=4 * LAYER_BYTES))
    proxy.bytes_per_s = 1_000_000
    moving = asyncio.Event()

    def note(progress: PullProgress) -> None:
        if progress.bytes_done:
            moving.set()

    async with images_on(engine) as images:
        pull = asyncio.create_task(images.pull(image, None, note))
        await asyncio.wait_for(moving.wait(), 20)
        pull.cancel()
        await asyncio.wait([pull])
        # What is in buffers still flows; then nothing more is carried, though most of it is missing.
        async with asyncio.timeout(10):
            carried = -1
            while carried != proxy.bytes_carried:
                carried = proxy.bytes_carried
                await asyncio.sleep(0.5)
        assert carried < 4 * LAYER_BYTES
        assert not await images.present(image)
    assert not [each for each in threading.enumerate() if each.name == "gpud-pull"]


async def test_a_prune_of_dangling_images_leaves_a_pulled_one(engine: Engine, registry: Registry) -> None:
    pushed = push(engine, registry)
    image = PinnedImage(reference="team/app:1", pin=pushed)
    async with images_on(engine) as images:
        await images.pull(image, None, unheard)
        labels = engine.client.api.inspect_image(pushed)["Config"]["Labels"]
        mine = [f"{name}={value}" for name, value in labels.items()]  # Others use this engine, too.
        engine.client.api.prune_images(filters={"dangling": True, "label": mine})
        assert await images.present(image)
        await images.remove(image.pin)
        assert not await images.present(image)
    tags = [tag for each in engine.client.api.images() for tag in each["RepoTags"] or ()]
    assert not [tag for tag in tags if pushed.rpartition(":")[2] in tag]


async def test_what_gpud_pulled_is_told_from_the_rest_with_its_use(
    engine: Engine, registry: Registry
) -> None:
    image = PinnedImage(reference="team/app:1", pin=push(engine, registry))
    before_ms = int(time.time() * 1000)
    async with images_on(engine) as images:
        assert image.pin not in {pin for each in await images.pulled_images() for pin in each.pins}
        await images.pull(image, None, unheard)
        (found,) = [each for each in await images.pulled_images() if image.pin in each.pins]
        assert (found.in_use, found.named) == (False, False)
        assert found.size_bytes >= 2 * LAYER_BYTES
        assert abs(found.used_at_ms - before_ms) < 60_000
        container = engine.client.api.create_container(image.pin)
        (used,) = [each for each in await images.pulled_images() if image.pin in each.pins]
        assert used.in_use
        engine.client.api.remove_container(container["Id"])
        engine.client.api.tag(image.pin, "somebody/own", "1")
        (named,) = [each for each in await images.pulled_images() if image.pin in each.pins]
        assert named.named
        assert (await images.free_bytes() or 0) > 0
    remove(engine, image)


async def test_credentials_in_a_docker_configuration_file_are_not_used(
    engine: Engine, private_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push(engine, private_registry)
    secret = f"{private_registry.username}:{private_registry.password}".encode()
    auths = {private_registry.address: {"auth": base64.b64encode(secret).decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    async with images_on(engine) as images:
        with pytest.raises(RegistryDenied, match=private_registry.address):
            await images.resolve(pushed, None)
        with pytest.raises(RegistryDenied, match="gpud registry login"):
            await images.pull(PinnedImage(reference="team/app:1", pin=pushed), None, unheard)


async def test_an_engine_that_dies_during_a_pull_fails_it_at_once(registry: Registry) -> None:
    with PrivateEngine() as engine, ThrottlingProxy(registry.port) as proxy:
        image = through(proxy, push(engine, registry))
        proxy.bytes_per_s = 500_000
        moving = asyncio.Event()
        async with images_on(engine) as images:
            pull = asyncio.create_task(images.pull(image, None, lambda _: moving.set()))
            await asyncio.wait_for(moving.wait(), 20)
            await asyncio.to_thread(engine.kill)
            begun_s = time.monotonic()
            with pytest.raises((ImagePullFailed, DependencyDown)):
                await pull
            assert time.monotonic() - begun_s < 5.0
            with pytest.raises(DependencyDown):
                await images.present(image)
            engine.start()  # Not on another thread: the engine ends with the thread it came from.
            proxy.bytes_per_s = None
            await images.pull(image, None, unheard)
            assert await images.present(image)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_is_named_and_what_was_loaded_is_given_back(
    engine: Engine, registry: Registry, small_disk: Path
) -> None:
    large = PinnedImage(
        reference="team/large:1", pin=push(engine, registry, layers=1, layer_bytes=48_000_000)
    )
    small = PinnedImage(reference="team/app:1", pin=push(engine, registry))
    with PrivateEngine(data_root=small_disk / "root") as cramped:
        async with images_on(cramped) as images:
            with pytest.raises(ImagePullFailed, match="disk of the engine is full"):
                await images.pull(large, None, unheard)
            assert not await images.present(large)
            await images.pull(small, None, unheard)
            assert await images.present(small)


async def test_no_name_of_an_image_leads_to_another_thing_of_the_engine(
    engine: Engine, base_image: str
) -> None:
    api = engine.client.api
    victim = api.create_container(base_image, "true", name=f"gpud-victim-{os.urandom(4).hex()}")["Id"]
    try:
        async with images_on(engine) as images:
            for name in (
                f"../containers/{victim}",
                f"a/../../containers/{victim}",
                f"../containers/{victim}?",
            ):
                with pytest.raises(ImageNotFound, match="is no image reference"):
                    await images.remove(name)
                with pytest.raises(ImageNotFound, match="is no image reference"):
                    await images.resolve(name, None)
        assert api.inspect_container(victim)["Id"] == victim
    finally:
        api.remove_container(victim, force=True)
