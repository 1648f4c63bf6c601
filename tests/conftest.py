"""Gives every test the rig: an engine, registries, images, a stand-in NVML; orders a run in parallel."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest
from _pytest.nodeid import coerce_node_id

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ("tests.rig.fixtures",)

# Started in the background of a script, a run inherits an ignored SIGINT, and so would every command
# the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is; a hang meets the time limit of its test.
hypothesis.settings.register_profile("gpud", deadline=None)
hypothesis.settings.load_profile("gpud")

_WAITING = ("e2e", "rig")
"""Kinds of tests that mostly wait; all others compute."""

_WAITING_ENDS_AT = 0.7
"""Where in a run the last module of those that wait begins: it may take a minute."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test an id of its own, and spread what waits among what computes.

    The soak comes first, for it takes longest. Then modules that mostly wait alternate with some
    that compute, so that two cores have something to do and not too much all the time. Within
    both the order stays the shuffled one.

    Raises:
        UsageError: Two tests have one id; of these, processes in parallel would run only one.
    """
    for item in items:
        if getattr(item, "operation_label", None):  # Schemathesis names its items but leaves them one id.
            item._id = coerce_node_id(f"{item.nodeid}[{item.name.partition('[')[2]}")
    ids = [item.nodeid for item in items]
    if len(set(ids)) != len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        raise pytest.UsageError(f"tests that share an id: {', '.join(twice[:5])}")
    places: dict[Path, float] = {}
    for waits in (True, False):
        modules = list(dict.fromkeys(item.path for item in items if _waits(item.path) is waits))
        share = _WAITING_ENDS_AT if waits else 1.0
        places |= {path: share * number / len(modules) for number, path in enumerate(modules)}
    items.sort(key=lambda item: (item.get_closest_marker("soak") is None, places[item.path]))


def _waits(path: Path) -> bool:
    return any(kind in path.parts for kind in _WAITING)
