"""Revisions on a real engine with traffic running: broken ones go back, and no request is lost."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

NAME = "rolling"
_CLIENTS = 3
_PAUSE_S = 0.03


class Callers:
    """Clients that call one after the other; every one of their requests must be answered by a worker."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self._over = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._over.wait(_PAUSE_S):
            try:
                reply = self._daemon.call(NAME, "/delay/0.01", timeout_s=30)
            except OSError as error:
                self.lost.append(repr(error))
                continue
            self.statuses[reply.status] += 1
            if "gpud-origin" in reply.headers:
                self.lost.append(f"{reply.status} {reply.body!r}")

    def go_home(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive(), "a client hangs"


def _spec(image: str, version: int, **env: object) -> dict[str, Any]:
    return worker_spec(
        NAME,
        image,
        env={"VERSION": version, **env},
        scale={"min_workers": 1, "max_workers": 1, "concurrency": 8},
        rollout={"min_healthy_time_s": 2},
    )


def _rollout(daemon: DaemonProcess, *steps: str, within_s: float = 60.0) -> dict[str, Any]:
    """Wait until the rollout is at one of these steps; returns it."""

    def there() -> dict[str, Any]:
        found: dict[str, Any] = daemon.endpoint(NAME)["rollout"] or {}
        return found if found.get("step") in steps else {}

    return until(there, what=f"the rollout is at {steps}", within_s=within_s)


def _revisions(daemon: DaemonProcess) -> dict[int, str]:
    return {row["number"]: row["state"] for row in daemon.get(f"/v1/endpoints/{NAME}/revisions")["items"]}


def test_broken_revisions_go_back_and_good_ones_take_over_with_no_request_lost(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(2))
    daemon.deploy(_spec(worker_image, 1))
    (first,) = daemon.wait_ready(NAME)
    callers = Callers(daemon)

    daemon.deploy(_spec(worker_image, 2, EXIT_AT_START=3))
    ended = _rollout(daemon, "rolled_back")
    assert ended["reason"] == "start_failures"
    assert "exited with code 3" in ended["detail"]
    assert [worker["id"] for worker in daemon.workers(NAME, state="ready")] == [first["id"]]

    until(lambda: callers.statuses[200] > 40, what="the old revision has answered some requests")
    daemon.deploy(_spec(worker_image, 3, FAIL_REQUESTS=1))
    assert _rollout(daemon, "rolled_back")["reason"] == "error_rate"
    assert callers.statuses[500] > 0
    # The row of the rollout says so first; the worker on trial leaves a moment later.
    until(
        lambda: [worker["id"] for worker in daemon.workers(NAME, state="ready")] == [first["id"]],
        what="only the old revision is ready",
    )
    assert daemon.endpoint(NAME)["spec"]["env"] == {"VERSION": "1"}

    daemon.deploy(_spec(worker_image, 4))
    assert daemon.cli("explain", NAME).returncode == 0
    assert _rollout(daemon, "completed", "rolled_back")["step"] == "completed"
    failed = callers.statuses[500]
    assert _revisions(daemon) == {1: "last_good", 2: "failed", 3: "failed", 4: "current"}
    assert first["id"] not in [worker["id"] for worker in daemon.workers(NAME, state="ready")]

    said = daemon.cli("rollback", NAME)
    assert said.returncode == 0, said.stderr
    assert daemon.endpoint(NAME)["spec"]["env"] == {"VERSION": "1"}
    assert _revisions(daemon)[1] == "current"
    listed = daemon.cli("endpoint", "revisions", NAME)
    assert listed.returncode == 0, listed.stderr
    assert "last good" in listed.stdout

    callers.go_home()
    assert callers.lost == []
    assert callers.statuses[500] == failed, "only the revision that was broken answered so"
    assert set(callers.statuses) == {200, 500}
    daemon.audit()


def test_a_daemon_killed_while_a_worker_is_on_trial_goes_on_with_that_worker(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(2))
    daemon.deploy(_spec(worker_image, 1))
    daemon.wait_ready(NAME)
    deployed = daemon.deploy(_spec(worker_image, 2, BOOT_DELAY_S=3))
    _rollout(daemon, "canary")

    def started() -> list[str]:
        rows = daemon.workers(NAME, state="starting")
        return [row["id"] for row in rows if row["revision"] == deployed["revision"]]

    (canary,) = until(started, what="the worker on trial has a container")
    daemon.wait_on_disk()
    daemon.kill()
    daemon.start()
    assert daemon.endpoint(NAME)["rollout"]["target"] == deployed["revision"]
    assert _rollout(daemon, "completed", "rolled_back")["step"] == "completed"
    until(
        lambda: [row["id"] for row in daemon.workers(NAME)] == [canary],
        what="the worker that was on trial is the one that serves",
    )
    assert daemon.call(NAME).status == 200
    daemon.audit()
