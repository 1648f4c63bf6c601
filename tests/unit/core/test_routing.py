from __future__ import annotations

import dataclasses

import pytest

from gpud.core.ids import EndpointName
from gpud.core.routing import Route, RoutingTable


def test_a_route_cannot_be_changed_under_the_gateway() -> None:
    route = Route(
        endpoint=EndpointName("echo"), concurrency=1, max_queue=1, hold_timeout_s=1.0, request_timeout_s=1.0
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        route.concurrency = 2  # type: ignore[misc]


def test_a_table_without_endpoints_routes_nothing() -> None:
    assert RoutingTable() == RoutingTable(routes={}, aliases={})
