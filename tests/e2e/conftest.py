"""Starts daemons for the end-to-end tests, and removes all they made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.e2e.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.engine import Engine


class DaemonStarter(Protocol):
    """Starts a daemon that is removed with all its containers after the test."""

    def __call__(
        self, *, wait: str = "/readyz", engine: Engine | None = None, **options: Any
    ) -> DaemonProcess:
        """Takes what `DaemonProcess` takes; `wait` empty only builds it."""
        ...


@pytest.fixture
def start_daemon(engine: Engine, request: pytest.FixtureRequest) -> Iterator[DaemonStarter]:
    """Starts daemons on the engine of this test run."""
    made: list[DaemonProcess] = []
    default = engine

    def start(*, wait: str = "/readyz", engine: Engine | None = None, **options: Any) -> DaemonProcess:
        daemon = DaemonProcess(engine or default, **{"forked": True, **options})
        made.append(daemon)
        return daemon.start(wait=wait) if wait else daemon

    yield start
    for daemon in made:
        if request.node.stash.get(FAILED, False):
            print(f"--- log of {daemon.folder} ---\n{daemon.log_tail()}")  # noqa: T201
        daemon.clean_up()


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Note a failure, so that the daemons' logs are shown with it."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
