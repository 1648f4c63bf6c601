from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.sim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def sim() -> Iterator[Sim]:
    """A box with two GPUs and a daemon, in virtual time."""
    with Sim(gpus=2, shuffle=False) as sim:
        yield sim
