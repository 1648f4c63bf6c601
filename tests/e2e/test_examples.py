"""The example endpoints deploy as they are written, and answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import static_gpus

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter

pytestmark = pytest.mark.e2e

_EXAMPLES = Path(__file__).parents[2] / "config/examples"
_FILES = sorted(path.relative_to(_EXAMPLES).as_posix() for path in _EXAMPLES.rglob("endpoint*.toml"))


@pytest.mark.parametrize("file", _FILES)
def test_an_example_endpoint_deploys_and_answers_its_health_check(
    start_daemon: DaemonStarter, worker_image: str, file: str
) -> None:
    # The image alone is another one: the examples' own take minutes to build, and have tests of their own.
    daemon = start_daemon(settings=static_gpus(4))
    deployed = daemon.cli("deploy", worker_image, "--file", str(_EXAMPLES / file))
    assert deployed.returncode == 0, deployed.stderr
    (endpoint,) = daemon.get("/v1/endpoints")["items"]
    # A health check by itself wakes nothing; this one says that it is meant to.
    path, wake = endpoint["spec"]["health"]["path"], {"X-Gpud-Wake": "true"}
    reply = daemon.call(endpoint["name"], path, headers=wake)
    assert reply.status == 200, reply
