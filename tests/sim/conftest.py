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
    """A simulation logs what a day of a daemon logs."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def sim() -> Iterator[Sim]:
    with Sim() as sim:
        yield sim
