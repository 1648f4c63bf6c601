"""Fixtures of the rig, for a conftest's `pytest_plugins`: an engine, registries, images, a stand-in NVML.

`GPUD_TEST_ENGINE=unix:///path` lends an engine that runs already, and spares its start. Without one, and
where none can run, tests that need it are skipped, or fail when `GPUD_REQUIRE_DOCKER=1`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest
from docker.errors import NotFound

from gpud.adapters.tier_parked import shipped_shim
from tests.rig.engine import Engine, PrivateEngine, engine_obstacle, remove_abandoned_engines
from tests.rig.images import ensure_base_image, ensure_static_image, ensure_worker_image
from tests.rig.nvml_stand_in import NvmlStandIn, stand_in_gpus
from tests.rig.registry import Registry, registry_obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

ROOT = Path(__file__).parents[2]
RIG_LABEL = "gpud.rig"
PRIVATE_REGISTRY_USERNAME = "alice"
PRIVATE_REGISTRY_PASSWORD = "correct horse"


class ContainerStarter(Protocol):
    """Starts a container that is removed after the test."""

    def __call__(self, image: str, **options: Any) -> Container:
        """Takes what the Docker SDK's `containers.run` takes."""
        ...


def _missing(obstacle: str) -> NoReturn:
    if os.environ.get("GPUD_REQUIRE_DOCKER") == "1":
        pytest.fail(obstacle)
    pytest.skip(obstacle)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine of this test run, lent by GPUD_TEST_ENGINE or private; `breakable_engine` may be killed."""
    if lent := os.environ.get("GPUD_TEST_ENGINE"):
        borrowed = Engine(lent)
        if not borrowed.answers():
            _missing(f"no engine answers at GPUD_TEST_ENGINE={lent}")
        yield borrowed
        borrowed.client.close()
        return
    if obstacle := engine_obstacle():
        _missing(obstacle)
    remove_abandoned_engines()
    with PrivateEngine() as private:
        yield private


@pytest.fixture
def breakable_engine(engine: Engine) -> Iterator[PrivateEngine]:
    """A private engine that the test may freeze, kill and restart; it runs again after the test."""
    if isinstance(engine, PrivateEngine):
        yield engine
        engine.thaw()
        engine.start(live_restore=False)
        engine.remove_everything()
    else:
        if obstacle := engine_obstacle():
            _missing(obstacle)
        with PrivateEngine() as private:
            yield private


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """The image that others are built from, on the engine."""
    return ensure_base_image(engine)


@pytest.fixture(scope="session")
def worker_image(engine: Engine) -> str:
    """The worker with knobs, on the engine."""
    return ensure_worker_image(engine)


@pytest.fixture(scope="session")
def static_image(engine: Engine) -> str:
    """The smallest server, on the engine."""
    return ensure_static_image(engine)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry open to all."""
    if obstacle := registry_obstacle():
        _missing(obstacle)
    with Registry() as running:
        yield running


@pytest.fixture(scope="session")
def private_registry() -> Iterator[Registry]:
    """A registry that wants a password."""
    if obstacle := registry_obstacle():
        _missing(obstacle)
    with Registry(username=PRIVATE_REGISTRY_USERNAME, password=PRIVATE_REGISTRY_PASSWORD) as running:
        yield running


@pytest.fixture(scope="session")
def shim() -> Path:
    """The shim that holds parked workers, built for this machine."""
    subprocess.run([str(ROOT / "scripts/build-shim")], check=True)
    return shipped_shim()


@pytest.fixture
def nvml(tmp_path: Path) -> NvmlStandIn:
    """A stand-in NVML with four GPUs, fresh for each test; wider fixtures make a `NvmlStandIn` themselves."""
    return NvmlStandIn(tmp_path, stand_in_gpus(4))


@pytest.fixture
def start_container(engine: Engine) -> Iterator[ContainerStarter]:
    """Starts containers on the engine and removes them after the test."""
    started: list[Container] = []

    def start(image: str, **options: Any) -> Container:
        container: Container = engine.client.containers.run(
            image, detach=True, labels={RIG_LABEL: "container"}, **options
        )
        started.append(container)
        return container

    yield start
    for container in started:
        with contextlib.suppress(NotFound):
            container.remove(force=True, v=True)
