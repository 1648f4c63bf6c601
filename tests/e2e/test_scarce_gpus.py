"""More endpoints than GPUs, on a real engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import static_gpus, worker_spec

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.mark.timeout(180)
def test_two_endpoints_under_load_take_turns_on_one_gpu_and_lose_no_request(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    settings = static_gpus(1) | {"scaling": {"settle_s": 0}}
    daemon = start_daemon(settings=settings)
    scale = {"concurrency": 1, "quantum_s": 2, "idle_timeout_s": 600}
    for name in ("left", "right"):
        daemon.deploy(worker_spec(name, worker_image, scale=scale))
    asked = [name for _ in range(9) for name in ("left", "right")]
    with ThreadPoolExecutor(len(asked)) as clients:
        answers = list(clients.map(lambda name: daemon.call(name, "/delay/0.5", timeout_s=120), asked))
    assert [answer.status for answer in answers] == [200] * len(asked)
    turns = daemon.rows(
        "SELECT w.endpoint, l.leased_boot_ns, l.released_boot_ns "
        "FROM worker w JOIN gpu_lease l ON l.worker_id = w.id ORDER BY l.leased_boot_ns"
    )
    order = [row["endpoint"] for row in turns]
    assert len(order) >= 4, "a busy one gave way after its turn"
    assert all(before != after for before, after in pairwise(order))
    daemon.audit()


@pytest.mark.timeout(180)
def test_two_workers_share_one_gpu_by_the_memory_they_reserve(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1) | {"scaling": {"settle_s": 0}})
    for name, memory_mib in (("large", 16_000), ("small", 8_000)):
        scale = {"min_workers": 1, "concurrency": 1}
        daemon.deploy(worker_spec(name, worker_image, scale=scale, gpus={"memory_mib": memory_mib}))
        daemon.wait_ready(name)
    with ThreadPoolExecutor(8) as clients:
        asked = ["large", "small"] * 4
        answers = list(clients.map(lambda name: daemon.call(name, "/delay/0.2", timeout_s=60), asked))
    assert [answer.status for answer in answers] == [200] * len(asked)
    seen = {daemon.call(name).json()["nvidia_visible_devices"] for name in ("large", "small")}
    assert len(seen) == 1
    held = daemon.rows("SELECT memory_mib, of_mib FROM gpu_lease WHERE released_boot_ns IS NULL")
    assert sorted(row["memory_mib"] for row in held) == [8_000, 16_000]
    assert {row["of_mib"] for row in held} == {24_576}
    daemon.audit()


@pytest.mark.timeout(240)
def test_a_worker_of_two_gpus_gets_them_while_small_ones_keep_asking(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(2) | {"scaling": {"settle_s": 0}})
    scale = {"concurrency": 1, "quantum_s": 2, "idle_timeout_s": 600}
    for name, count in (("left", 1), ("right", 1), ("both", 2)):
        daemon.deploy(worker_spec(name, worker_image, scale=scale, gpus={"count": count}))
    asked = [name for _ in range(8) for name in ("left", "right")]
    with ThreadPoolExecutor(len(asked) + 1) as clients:
        small = [clients.submit(daemon.call, name, "/delay/0.5", timeout_s=150) for name in asked]
        big = clients.submit(daemon.call, "both", timeout_s=150)
        assert big.result().status == 200
        assert {answer.result().status for answer in small} == {200}
    assert len(big.result().json()["nvidia_visible_devices"].split(",")) == 2
    daemon.audit()
