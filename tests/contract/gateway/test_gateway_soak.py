"""Five minutes of connections that come, rest and leave: descriptors, tasks and memory stay flat."""

from __future__ import annotations

import os

import pytest
import uvloop

from tests.contract.gateway.soaking import CLIENTS, Soak

_LENGTH_S = 264.0
"""Between the phases, all connections end: with that it takes five minutes."""
_PHASES = 12


@pytest.mark.soak
@pytest.mark.timeout(540)
def test_five_minutes_of_two_thousand_connections_leak_nothing() -> None:
    """At a load that leaves most of a core to others: the connections are idle most of the time.

    `GPUD_SOAK_S` makes it shorter, for a look.
    """
    length_s = float(os.environ.get("GPUD_SOAK_S", _LENGTH_S))
    soak = Soak(phases=_PHASES, phase_s=length_s / _PHASES, rest_s=length_s / _PHASES)
    uvloop.run(soak.run())
    assert soak.requests > CLIENTS
    assert soak.faults() == []
