"""Gives every test the rig: an engine, registries, images, a stand-in NVML; orders a run in parallel."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ("tests.rig.fixtures",)

# Started in the background of a script, a run inherits an ignored SIGINT, and so would every command
# the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is; a hang meets the time limit of its test.
# A run tries the same examples each time, so that it judges the change and not the day;
# `--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("gpud", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=3000)
hypothesis.settings.load_profile("gpud")

_STARTERS = ("rig", "contract")
"""Kinds whose modules start engines of their own: they come after those that only use one."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules in an order that keeps the cores busy.

    The soak first, for it takes longest; then what mostly waits among what mostly computes; of each
    kind the long modules first, so that none is left to run alone. Otherwise the order stays the
    shuffled one.

    Raises:
        UsageError: Two tests have one id; of these, processes in parallel would run only one.
    """
    ids = [item.nodeid for item in items]
    if len(set(ids)) != len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        raise pytest.UsageError(f"tests that share an id: {', '.join(twice[:5])}")
    places = _places(items)
    items.sort(key=lambda item: (item.get_closest_marker("soak") is None, places[item.path]))


def _places(items: list[pytest.Item]) -> dict[Path, tuple[bool, float]]:
    """Where each module runs: the modules that wait are spread evenly over those that compute."""
    modules: dict[str, dict[Path, bool]] = {"waits": {}, "computes": {}, "starts engines": {}}
    for item in items:
        parts = item.path.parts
        kind = "waits" if "e2e" in parts else "computes"
        if any(each in parts for each in _STARTERS):
            kind = "starts engines"
        modules[kind].setdefault(item.path, item.get_closest_marker("long") is not None)
    places = {}
    for kind, paths in modules.items():
        in_turn = sorted(paths, key=lambda path: not paths[path])
        for index, path in enumerate(in_turn):
            places[path] = (kind == "starts engines", index / len(in_turn))
    return places
