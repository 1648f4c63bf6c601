"""Do the registries serve, ask for passwords, delete, and do their networks fail as told?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from docker.errors import APIError, ImageNotFound, NotFound

from tests.rig import leftovers
from tests.rig.asking import ask
from tests.rig.registry import Registry, RegistryFailed
from tests.rig.throttle import ThrottlingProxy

if TYPE_CHECKING:
    from tests.rig.engine import Engine

pytestmark = pytest.mark.engine


def test_an_image_pushed_is_pulled_by_digest(engine: Engine, registry: Registry, static_image: str) -> None:
    reference = registry.push(engine, static_image, "team/static", tag="v1")
    assert registry.tags("team/static") == ["v1"]
    with pytest.raises(ImageNotFound):
        engine.client.images.get(reference)
    pulled = engine.client.images.pull(reference)
    assert pulled.id == engine.client.images.get(static_image).id
    engine.client.images.remove(reference)


def test_a_deleted_image_is_gone(engine: Engine, registry: Registry, static_image: str) -> None:
    reference = registry.push(engine, static_image, "team/gone")
    registry.delete(reference)
    with pytest.raises((NotFound, ImageNotFound)):
        engine.client.images.pull(reference)
    with pytest.raises(RegistryFailed, match="404"):
        registry.delete(reference)


def test_a_private_registry_wants_the_right_password(
    engine: Engine, private_registry: Registry, static_image: str
) -> None:
    reference = private_registry.push(engine, static_image, "secret/static")
    with pytest.raises(APIError, match="no basic auth credentials"):
        engine.client.images.pull(reference)
    with pytest.raises(APIError, match="unauthorized"):
        engine.client.images.pull(reference, auth_config={"username": "alice", "password": "wrong"})
    assert engine.client.images.pull(reference, auth_config=private_registry.auth).tags is not None
    engine.client.images.remove(reference)


def test_a_registry_comes_back_from_an_outage_on_its_port_with_its_images(
    engine: Engine, static_image: str
) -> None:
    with Registry() as registry:
        registry.push(engine, static_image, "kept")
        port = registry.port
        registry.halt()
        with pytest.raises(ConnectionRefusedError):
            registry.tags("kept")
        registry.start()
        assert (registry.port, registry.tags("kept")) == (port, ["latest"])


def test_a_pull_through_a_slow_network_takes_its_time(
    engine: Engine, registry: Registry, static_image: str
) -> None:
    reference = registry.push(engine, static_image, "slow")
    digest = reference.partition("@")[2]
    with ThrottlingProxy(registry.port) as network:
        network.bytes_per_s = 400_000
        started_s = time.monotonic()
        ask(f"http://127.0.0.1:{network.port}/v2/slow/manifests/{digest}")
        engine.client.images.pull(f"127.0.0.1:{network.port}/slow@{digest}")
        took_s = time.monotonic() - started_s
        # The layer may be on the engine already; then only the manifests are fetched.
        assert took_s >= (network.bytes_carried - 64 * 1024) / network.bytes_per_s
        engine.client.images.remove(f"127.0.0.1:{network.port}/slow@{digest}")


def test_a_slow_network_carries_no_more_than_its_limit(registry: Registry) -> None:
    with ThrottlingProxy(registry.port) as network:
        network.bytes_per_s = 2_000
        started_s = time.monotonic()
        for _ in range(3):
            ask(f"http://127.0.0.1:{network.port}/v2/")
        assert time.monotonic() - started_s >= network.bytes_carried / 2_000 - 0.2


def test_a_network_that_cuts_refuses_or_stalls_fails_the_request(registry: Registry) -> None:
    with ThrottlingProxy(registry.port) as network:
        url = f"http://127.0.0.1:{network.port}/v2/"
        network.cut_after_bytes = 10
        with pytest.raises(ConnectionError):
            ask(url)
        network.cut_after_bytes = None
        network.refusing = True
        with pytest.raises(ConnectionError):
            ask(url)
        network.refusing = False
        network.stalled = True
        with pytest.raises(TimeoutError):
            ask(url, timeout_s=0.2)
        network.stalled = False
        assert leftovers.wait_until(lambda: ask(url).status == 200, timeout_s=5)
