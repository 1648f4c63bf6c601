"""Which files of its image a container opens is seen on a real engine, and not what others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.docker_image_use import layer_dirs
from gpud.adapters.fanotify import obstacle
from gpud.adapters.page_cache import FilePageCache
from gpud.adapters.threads import Threads
from gpud.core.endpoint import PinnedImage
from gpud.core.ids import Revision, WorkerId
from tests.fakes.images import FakeImages

if TYPE_CHECKING:
    from tests.rig.engine import Engine

REVISION = Revision("0" * 12)
WORKER = WorkerId("wk_0000000000000001")


class EngineImages(FakeImages):
    """Images whose layers are those of one image of the engine."""

    def __init__(self, layers: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = layers

    async def layer_dirs(self, image: PinnedImage) -> tuple[str, ...]:  # noqa: ARG002 - the port's signature
        return self.layers


@pytest.mark.skipif(bool(obstacle()), reason=f"openings cannot be watched here: {obstacle()}")
async def test_a_start_is_recorded_by_what_it_opened_and_in_that_order(
    engine: Engine, worker_image: str, tmp_path: Path
) -> None:
    layers = layer_dirs(engine.client.api.inspect_image(worker_image))
    images, threads = EngineImages(layers), Threads(2)
    cache = FilePageCache(images, threads, folder=tmp_path, volume_roots=())
    held = engine.client.containers.run(
        worker_image, ["600"], entrypoint=["/bin/sleep"], detach=True, network_mode="none"
    )
    try:
        held.reload()
        await cache.watch(WORKER)
        await cache.attach(WORKER, held.attrs["State"]["Pid"])
        assert held.exec_run(["cat", "/etc/os-release", "/etc/debian_version"]).exit_code == 0
        (unopened,) = [file for layer in layers if (file := Path(layer, "etc/issue")).exists()]
        unopened.read_bytes()
        pinned = PinnedImage(reference=worker_image, pin=worker_image)
        noted = await cache.record(REVISION, pinned, budget_bytes=1 << 30, worker_id=WORKER)
    finally:
        held.remove(force=True)
        await threads.close()
    assert (noted.by, noted.why_not) == ("opened", "")
    paths = [path for path, _, _ in json.loads((tmp_path / f"{REVISION}.json").read_text())]
    named = [
        each for path in paths for each in ("sleep", "os-release", "debian_version") if path.endswith(each)
    ]
    assert named == ["sleep", "os-release", "debian_version"], (
        "the program that ran before anybody watched too"
    )
    assert str(unopened) not in paths
    assert all(path.startswith(layers) for path in paths)
