"""kill -9 of the daemon at random moments of a run with traffic: nothing is orphaned, shared or lost."""

from __future__ import annotations

import random
import threading
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.recorder import EngineRecorder
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.long]

_KILLS = 20
_RUN_S_MAX = 1.0
_AWAKE = ("starting", "ready", "not_ready", "draining")
_NS_PER_MS = 1_000_000


class Traffic:
    """Clients that never give up: while the daemon is away they try again.

    Args:
        daemon: Under test.
        names: Endpoints to call.
        seed: Of what they ask for.
    """

    def __init__(self, daemon: DaemonProcess, names: list[str], *, clients: int, seed: int) -> None:
        self._daemon = daemon
        self._names = names
        self._stopping = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.broken = 0
        self.refusals: list[bytes] = []
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed * 1000 + i),), daemon=True)
            for i in range(clients)
        ]

    def start(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a client hangs"

    def _run(self, rng: random.Random) -> None:
        while not self._stopping.is_set():
            name, delay_s = rng.choice(self._names), rng.uniform(0.0, 0.4)
            try:
                reply = self._daemon.call(name, f"/delay/{delay_s:.3f}", timeout_s=20)
            except OSError:
                self.broken += 1
                self._stopping.wait(0.1)
                continue
            self.statuses[reply.status] += 1
            if reply.status != 200:
                self.refusals.append(reply.body)
            self._stopping.wait(rng.choice([0.0, 0.0, 0.6]))


def test_twenty_kills_at_random_moments_leave_no_orphan_no_double_lease_and_exact_books(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    rng = random.Random(20_26)
    daemon = start_daemon(settings=static_gpus(3))
    scale = {"idle_timeout_s": 0.3, "concurrency": 1, "max_workers": 2}
    daemon.deploy(worker_spec("flighty", worker_image, scale=scale))
    daemon.deploy(worker_spec("lazy", worker_image, scale={"idle_timeout_s": 0}))
    daemon.deploy(worker_spec("cpu", worker_image, gpus={"count": 0}, scale={"idle_timeout_s": 0.2}))
    daemon.deploy(worker_spec("stays", worker_image, scale={"min_workers": 1}))
    (stays,) = daemon.wait_ready("stays")
    container_id = daemon.container_of(stays["id"]).id
    (install,) = daemon.rows("SELECT install_id FROM install")
    with EngineRecorder(daemon.engine, install["install_id"]) as recorder:
        traffic = Traffic(daemon, ["flighty", "lazy", "cpu", "stays"], clients=4, seed=7)
        assert daemon.key
        traffic.start()
        for _ in range(_KILLS):
            _run_until_a_random_moment(rng, recorder)
            daemon.kill()
            daemon.start()
            _assert_containers_and_rows_agree(daemon)
            assert daemon.container_of(stays["id"]).id == container_id, "it was adopted, not replaced"
        traffic.stop()
        assert traffic.statuses[200] > _KILLS, traffic.statuses
        assert traffic.broken, "what was running through a killed daemon breaks with it"
        assert set(traffic.statuses) == {200}, (traffic.statuses, traffic.refusals[:3])
        for name in ("flighty", "lazy", "cpu", "stays"):
            assert daemon.api("DELETE", f"/v1/endpoints/{name}").status == 204
        daemon.wait_zero()
        until(lambda: len(recorder.lifetimes) >= len(recorder.starts) * 0.9, what="ends are recorded")
    _assert_the_books_tell_each_containers_lifetime(daemon, recorder)
    _assert_no_gpu_was_shared(daemon, recorder)
    daemon.audit()


def _run_until_a_random_moment(rng: random.Random, recorder: EngineRecorder) -> None:
    """Let it run for a random time, or until the engine does something the daemon asked for."""
    moment = rng.choice(["any", "create", "start", "die", "destroy"])
    limit_s = rng.uniform(0.05, _RUN_S_MAX)
    threading.Event().wait(limit_s)
    if moment != "any":
        recorder.await_next(moment, within_s=_RUN_S_MAX)


def _assert_containers_and_rows_agree(daemon: DaemonProcess) -> None:
    """Every container is a live worker's, and every worker that must have one has it running."""

    def disagreement() -> str:
        containers = {c.name.removeprefix("gpud-"): c for c in daemon.containers()}
        workers = {w["id"]: w for w in daemon.workers()}
        orphans = set(containers) - set(workers)
        running = {i for i, c in containers.items() if c.status == "running"}
        bare = {i for i, w in workers.items() if w["state"] in _AWAKE} - running
        return f"orphans {orphans}, without a container {bare}" if orphans or bare else ""

    until(lambda: not disagreement(), what="containers and rows agree", within_s=10)
    held = Counter(
        gpu
        for container in daemon.containers()
        if container.status == "running"
        for gpu in container.labels["gpud.gpus"].split(",")
        if gpu
    )
    assert all(count == 1 for count in held.values()), held


def _assert_the_books_tell_each_containers_lifetime(daemon: DaemonProcess, recorder: EngineRecorder) -> None:
    metered = {
        row["worker_id"]: row
        for row in daemon.rows(
            "SELECT w.id AS worker_id, w.container_started_ns, w.container_finished_ns, "
            "SUM(s.end_boot_ns - s.start_boot_ns) AS ran_ns, MAX(s.estimated) AS estimated "
            "FROM worker w JOIN usage_segment s ON s.worker_id = w.id "
            "WHERE s.phase NOT IN ('setup', 'release') GROUP BY w.id"
        )
    }
    assert len(recorder.lifetimes) >= _KILLS // 2
    assert set(recorder.starts) <= set(metered), "a container ran that nobody metered"
    for worker_id, lifetime in recorder.lifetimes.items():
        row = metered[worker_id]
        assert row["container_started_ns"] == lifetime.started_ns, worker_id
        assert row["container_finished_ns"] == lifetime.finished_ns, worker_id
    for row in metered.values():
        if row["container_started_ns"]:
            lifetime_ns = row["container_finished_ns"] - row["container_started_ns"]
            assert abs(row["ran_ns"] - lifetime_ns) < _NS_PER_MS, _life_story(daemon, row["worker_id"])
            assert not row["estimated"]


def _life_story(daemon: DaemonProcess, worker_id: str) -> str:
    """What the books and the log say about a worker, for whoever reads a failure."""
    segments = daemon.rows(
        "SELECT phase, start_boot_ns, end_boot_ns, close_reason FROM usage_segment "
        "WHERE worker_id = ? ORDER BY seq",
        worker_id,
    )
    lines = [*map(tuple, segments), *daemon.log_lines(worker=worker_id)]
    return "\n".join(map(str, lines))


def _assert_no_gpu_was_shared(daemon: DaemonProcess, recorder: EngineRecorder) -> None:
    for starts in recorder.starts.values():
        assert len(starts) == 1, "a worker has one container, started once"
    by_gpu: dict[str, list[tuple[int, int]]] = {}
    for lifetime in recorder.lifetimes.values():
        for gpu in lifetime.gpus:
            by_gpu.setdefault(gpu, []).append((lifetime.started_ns, lifetime.finished_ns))
    assert len(by_gpu) == 3
    for spans in by_gpu.values():
        for before, after in pairwise(sorted(spans)):
            assert before[1] <= after[0], "two containers had the same GPU at the same time"
    leases = daemon.rows("SELECT gpu_uuid, leased_boot_ns, released_boot_ns FROM gpu_lease ORDER BY 1, 2")
    for lease, following in pairwise(leases):
        if lease["gpu_uuid"] == following["gpu_uuid"]:
            assert lease["released_boot_ns"] <= following["leased_boot_ns"]
