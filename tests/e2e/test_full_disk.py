"""A full disk: changes are refused with 507, running requests go on, and nothing is lost."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clarity import assert_cli, assert_logged, assert_problem
from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import DaemonStarter

pytestmark = pytest.mark.e2e

_SIZE = "4m"
_BLOCK = b"\0" * 65_536


class SmallDisk:
    """A file system of a few megabytes that a test can fill and empty.

    Args:
        folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("ab", buffering=0) as file:
            for piece in (_BLOCK, b"\0" * 512):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(piece)

    def empty(self) -> None:
        """Give the space back."""
        self._filler.unlink()


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """A small disk, mounted for one test."""
    folder = Path(tempfile.mkdtemp(prefix="gpud-e2e-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "gpud-e2e", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
    yield SmallDisk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_refuses_changes_keeps_serving_and_recovers_by_itself(
    start_daemon: DaemonStarter, worker_image: str, small_disk: SmallDisk
) -> None:
    daemon = start_daemon(settings=static_gpus(2), data_dir=small_disk.folder / "data")
    daemon.deploy(worker_spec("steady", worker_image))
    worker = daemon.call("steady").worker
    says = ["disk of gpud's data directory is full", "Free some space"]

    small_disk.fill()
    reply = daemon.api("PUT", "/v1/endpoints/more", worker_spec("more", worker_image))

    assert_problem(daemon, reply, status=507, slug="storage-full", says=says)
    ran = daemon.cli("deploy", worker_image, "--name", "more", "--port", "8000")
    assert_cli(ran, code=1, says=says)
    assert_logged(daemon, "store.filled_up", says=["is full", "Free some space"])
    assert_logged(daemon, "request.refused", problem="storage-full", says=says)
    ready = daemon.api("GET", "/readyz")
    assert ready.status == 503
    assert "full" in ready.json()["parts"]["store"]
    for _ in range(5):
        assert daemon.call("steady").worker == worker, "what runs goes on"

    small_disk.empty()

    until(lambda: daemon.api("GET", "/readyz").status == 200, what="it goes on by itself")
    assert daemon.log_lines("store.recovered")
    daemon.deploy(worker_spec("more", worker_image))
    assert daemon.call("more").status == 200
    assert daemon.call("steady").worker == worker
    daemon.audit()
    daemon.kill()
    daemon.start()
    assert {e["name"] for e in daemon.get("/v1/endpoints")["items"]} == {"steady", "more"}
    daemon.audit()
