"""More endpoints than GPUs, on a real engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import static_gpus, worker_spec

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter

pytestmark = pytest.mark.e2e


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
