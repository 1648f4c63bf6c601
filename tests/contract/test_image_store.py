"""What every image store promises: the fake, and a Docker Engine with registries on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from gpud.adapters.docker_images import DockerImages
from gpud.adapters.threads import Threads
from gpud.core.endpoint import PinnedImage
from gpud.errors import Conflict, ImageNotFound, ImagePullFailed, RegistryDenied
from gpud.ports.images import PullProgress, RegistryCredential
from gpud.settings import DockerSettings
from tests.fakes.faults import Fault, FaultKind
from tests.fakes.images import FakeImages
from tests.rig.images import build_image
from tests.rig.throttle import ThrottlingProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gpud.ports.images import ImageStore
    from tests.rig.engine import Engine
    from tests.rig.registry import Registry

pytestmark = pytest.mark.long

STALL_TIMEOUT_S = 1.0
LAYER_BYTES = 3_000_000
NUMBERS = itertools.count(1)
NO_DIGEST = "sha256:" + "0" * 64


class Box(Protocol):
    """An image store, and what may happen to images, registries and the network."""

    images: ImageStore

    def reference(self, *, private: bool = False) -> str: ...
    def build(self, reference: str) -> None: ...
    def push(self, reference: str) -> str: ...
    def fetch(self, reference: str) -> None: ...
    def use(self, pin: str) -> None: ...
    def stall(self) -> None: ...
    def flow(self) -> None: ...
    def unplug(self) -> None: ...
    def credential(self, password: str = "") -> RegistryCredential: ...


class FakeBox:
    def __init__(self) -> None:
        self._fake = FakeImages()
        self._fake.stall_timeout_s = STALL_TIMEOUT_S
        self._fake.pull_s = 0.05
        self.images: ImageStore = self._fake
        self._pushes = itertools.count()

    def reference(self, *, private: bool = False) -> str:
        return f"{'private' if private else 'open'}.test/app-{next(NUMBERS)}:1"

    def build(self, reference: str) -> None:
        self._fake.build(reference)

    def push(self, reference: str) -> str:
        wanted = self.credential() if reference.startswith("private") else None
        return self._fake.push(reference, content=str(next(self._pushes)), credential=wanted)

    def fetch(self, reference: str) -> None:
        self._fake.fetch(reference)

    def use(self, pin: str) -> None:
        self._fake.in_use = lambda used: used == pin

    def stall(self) -> None:
        self._fake.faults.inject("pull", Fault(kind=FaultKind.HANG_BEFORE))

    def flow(self) -> None:
        pass

    def unplug(self) -> None:
        self._fake.unplug()

    def credential(self, password: str = "") -> RegistryCredential:
        return RegistryCredential(host="private.test", username="alice", password=password or "right")


class DockerBox:
    def __init__(
        self, engine: Engine, threads: Threads, open_registry: Registry, private_registry: Registry
    ) -> None:
        self._engine = engine
        self._private = private_registry
        self._registries = {False: open_registry, True: private_registry}
        self._proxies = {
            private: ThrottlingProxy(registry.port) for private, registry in self._registries.items()
        }
        settings = DockerSettings(host=engine.socket_url, pull_stall_timeout_s=STALL_TIMEOUT_S)
        self.docker = DockerImages(settings, threads)
        self.images: ImageStore = self.docker
        self._used: list[str] = []
        self._names: list[str] = []

    def reference(self, *, private: bool = False) -> str:
        name = f"127.0.0.1:{self._proxies[private].port}/team/store-{os.getpid()}-{next(NUMBERS)}:1"
        self._names.append(name)
        return name

    def build(self, reference: str) -> None:
        """An image of two layers that no other image has."""
        dockerfile = b"FROM scratch\nCOPY one /\nCOPY two /\nEXPOSE 9000/udp 8001 8000\n"
        blobs = {name: os.urandom(LAYER_BYTES) for name in ("one", "two")}
        build_image(self._engine, reference, {"Dockerfile": dockerfile, **blobs})

    def push(self, reference: str) -> str:
        """Build and push past the proxy, and leave nothing of it on the engine."""
        self.build(reference)
        address, _, rest = reference.partition("/")
        private = address.endswith(f":{self._proxies[True].port}")
        repository, _, tag = rest.partition(":")
        pushed = self._registries[private].push(self._engine, reference, repository, tag)
        self._engine.client.api.remove_image(reference, force=True)
        with contextlib.suppress(Exception):
            self._engine.client.api.remove_image(pushed)
        return f"{address}/{repository}@{pushed.partition('@')[2]}"

    def fetch(self, reference: str) -> None:
        self._engine.client.api.pull(reference)

    def use(self, pin: str) -> None:
        body = {"Image": pin, "Cmd": ["/nothing"]}
        self._used.append(self._engine.client.api.create_container_from_config(body)["Id"])

    def stall(self) -> None:
        for proxy in self._proxies.values():
            proxy.stalled = True

    def flow(self) -> None:
        for proxy in self._proxies.values():
            proxy.stalled = False

    def unplug(self) -> None:
        for proxy in self._proxies.values():
            proxy.refusing = True
            proxy.cut()

    def credential(self, password: str = "") -> RegistryCredential:
        registry = self._private
        host = f"127.0.0.1:{self._proxies[True].port}"
        return RegistryCredential(
            host=host, username=registry.username, password=password or registry.password
        )

    def clean_up(self) -> None:
        api = self._engine.client.api
        for container_id in self._used:
            api.remove_container(container_id, force=True)
        ports = tuple(f"127.0.0.1:{proxy.port}/" for proxy in self._proxies.values())
        for image in api.images():
            names = [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]
            if any(name.startswith(ports) for name in names):
                api.remove_image(image["Id"], force=True)
        for proxy in self._proxies.values():
            proxy.close()


@asynccontextmanager
async def docker_box(
    engine: Engine, registry: Registry, private_registry: Registry
) -> AsyncIterator[DockerBox]:
    threads = Threads(4)
    box = DockerBox(engine, threads, registry, private_registry)
    try:
        yield box
    finally:
        box.flow()
        await box.docker.close()
        box.clean_up()
        assert await threads.close()


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.engine)])
async def box(request: pytest.FixtureRequest) -> AsyncIterator[Box]:
    if request.param == "fake":
        yield FakeBox()
        return
    engine, registry, private_registry = (
        request.getfixturevalue(name) for name in ("engine", "registry", "private_registry")
    )
    async with docker_box(engine, registry, private_registry) as made:
        yield made


def unheard(_: PullProgress) -> None:
    pass


async def test_an_image_built_here_is_pinned_by_its_id_without_a_registry(box: Box) -> None:
    reference = box.reference()
    box.build(reference)
    box.unplug()
    image = await box.images.resolve(reference, None)
    assert image.pin.startswith("sha256:")
    assert image.reference == reference
    assert 8000 in image.exposed_ports
    assert await box.images.present(image)
    by_id = await box.images.resolve(image.pin, None)
    assert (by_id.pin, by_id.exposed_ports) == (image.pin, image.exposed_ports)


async def test_an_image_of_a_registry_is_pinned_by_digest_and_pulled_apart(box: Box) -> None:
    reference = box.reference()
    pin = box.push(reference)
    image = await box.images.resolve(reference, None)
    assert image.pin == pin
    assert not await box.images.present(image)
    with pytest.raises(ImageNotFound):
        await box.images.exposed_ports(image)
    await box.images.pull(image, None, unheard)
    assert await box.images.present(image)
    assert 8000 in await box.images.exposed_ports(image)


async def test_a_reference_with_a_digest_is_kept_here_or_not(box: Box) -> None:
    pin = box.push(box.reference())
    image = await box.images.resolve(pin, None)
    assert image.pin == pin
    await box.images.pull(image, None, unheard)
    box.unplug()
    assert (await box.images.resolve(pin, None)).pin == pin


async def test_a_tag_that_moved_is_pinned_to_what_the_registry_has_now(box: Box) -> None:
    reference = box.reference()
    old = box.push(reference)
    box.fetch(reference)
    new = box.push(reference)
    assert new != old
    assert (await box.images.resolve(reference, None)).pin == new


async def test_without_its_registry_an_image_that_is_here_keeps_its_digest(box: Box) -> None:
    reference = box.reference()
    pin = box.push(reference)
    box.fetch(reference)
    box.unplug()
    image = await box.images.resolve(reference, None)
    assert image.pin == pin
    assert 8000 in image.exposed_ports
    with pytest.raises(ImagePullFailed):
        await box.images.resolve(box.reference(), None)


async def test_what_no_registry_has_is_not_found(box: Box) -> None:
    with pytest.raises(ImageNotFound):
        await box.images.resolve(box.reference(), None)
    with pytest.raises(ImageNotFound):
        await box.images.resolve("sha256:" + "1" * 64, None)
    known = box.push(box.reference())
    gone = PinnedImage(reference="gone", pin=f"{known.partition('@')[0]}@{NO_DIGEST}")
    with pytest.raises(ImageNotFound):
        await box.images.pull(gone, None, unheard)
    built_and_gone = PinnedImage(reference="mine:1", pin=NO_DIGEST)
    with pytest.raises(ImageNotFound):
        await box.images.pull(built_and_gone, None, unheard)


async def test_a_private_registry_wants_the_right_credentials_each_time(box: Box) -> None:
    reference = box.reference(private=True)
    box.push(reference)
    for wrong in (None, box.credential("wrong")):
        with pytest.raises(RegistryDenied):
            await box.images.resolve(reference, wrong)
    image = await box.images.resolve(reference, box.credential())
    for wrong in (None, box.credential("wrong")):
        with pytest.raises(RegistryDenied):
            await box.images.pull(image, wrong, unheard)
    await box.images.pull(image, box.credential(), unheard)
    assert await box.images.present(image)


async def test_progress_grows_to_all_layers_and_all_bytes(box: Box) -> None:
    reference = box.reference()
    box.push(reference)
    image = await box.images.resolve(reference, None)
    heard: list[PullProgress] = []
    await box.images.pull(image, None, heard.append)
    last = heard[-1]
    assert last.layers_done == last.layers > 1
    assert last.bytes_done == last.bytes_total > LAYER_BYTES
    for earlier, later in itertools.pairwise(heard):
        assert later.bytes_done >= earlier.bytes_done
        assert later.layers_done >= earlier.layers_done
        assert later != earlier


async def test_pulls_of_one_image_at_the_same_time_share_the_progress_and_the_end(box: Box) -> None:
    reference = box.reference()
    box.push(reference)
    image = await box.images.resolve(reference, None)
    heard: tuple[list[PullProgress], ...] = ([], [], [])
    await asyncio.gather(*(box.images.pull(image, None, each.append) for each in heard))
    assert heard[0][-1] == heard[1][-1] == heard[2][-1]
    assert await box.images.present(image)


async def test_a_pull_goes_on_while_somebody_waits_for_it_and_ends_with_the_last(box: Box) -> None:
    reference = box.reference()
    box.push(reference)
    image = await box.images.resolve(reference, None)
    first = asyncio.create_task(box.images.pull(image, None, unheard))
    second = asyncio.create_task(box.images.pull(image, None, unheard))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert await box.images.present(image)
    await box.images.remove(image.pin)

    box.stall()
    lone = asyncio.create_task(box.images.pull(image, None, unheard))
    # Lets the pull get as far as it can while stalled; cut at any earlier point it must end the same.
    await asyncio.sleep(0.2)
    lone.cancel()
    await asyncio.wait([lone])
    assert lone.cancelled()
    assert not await box.images.present(image)
    box.flow()
    await box.images.pull(image, None, unheard)
    assert await box.images.present(image)


async def test_a_pull_without_progress_fails_at_the_stall_limit(box: Box) -> None:
    reference = box.reference()
    box.push(reference)
    image = await box.images.resolve(reference, None)
    box.stall()
    with pytest.raises(ImagePullFailed, match="no progress"):
        await asyncio.wait_for(box.images.pull(image, None, unheard), STALL_TIMEOUT_S + 5)
    assert not await box.images.present(image)
    box.flow()
    await box.images.pull(image, None, unheard)


async def test_a_pull_from_a_registry_that_is_away_fails_and_may_be_tried_again(box: Box) -> None:
    reference = box.reference()
    box.push(reference)
    image = await box.images.resolve(reference, None)
    box.unplug()
    with pytest.raises(ImagePullFailed) as failed:
        await box.images.pull(image, None, unheard)
    assert not isinstance(failed.value, RegistryDenied)


async def test_the_list_tells_ids_pins_names_and_sizes(box: Box) -> None:
    built, pushed = box.reference(), box.reference()
    box.build(built)
    pin = box.push(pushed)
    image = await box.images.resolve(pushed, None)
    await box.images.pull(image, None, unheard)
    listed = await box.images.list_images()
    mine = next(each for each in listed if built in each.references)
    assert mine.pins == (mine.id,)
    pulled = next(each for each in listed if pin in each.pins)
    assert pulled.id in pulled.pins
    assert not any("gpud.internal" in name for each in listed for name in each.references)
    assert pulled.size_bytes > LAYER_BYTES


async def test_a_removed_image_is_gone_and_removing_it_again_is_fine(box: Box) -> None:
    pushed, built = box.reference(), box.reference()
    box.push(pushed)
    box.build(built)
    image = await box.images.resolve(pushed, None)
    await box.images.pull(image, None, unheard)
    for gone in (image, await box.images.resolve(built, None)):
        await box.images.remove(gone.pin)
        assert not await box.images.present(gone)
        await box.images.remove(gone.pin)
        assert not [each for each in await box.images.list_images() if gone.pin in each.pins]


async def test_an_image_that_a_container_uses_stays(box: Box) -> None:
    reference = box.reference()
    box.push(reference)
    image = await box.images.resolve(reference, None)
    await box.images.pull(image, None, unheard)
    box.use(image.pin)
    with pytest.raises(Conflict):
        await box.images.remove(image.pin)
    assert await box.images.present(image)
