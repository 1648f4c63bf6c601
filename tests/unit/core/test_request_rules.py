from __future__ import annotations

import pytest

from gpud.core.endpoint import HealthCheck
from gpud.core.request_rules import RequestRules, is_quiet, quiet_paths
from tests.unit.core.making import spec


def _quiet(method: str, target: str, rules: RequestRules | None = None, health: str = "/health") -> bool:
    made = spec(requests=rules or RequestRules(), health=HealthCheck(path=health))
    return is_quiet(made.requests.quiet_methods, quiet_paths(made), method, target)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("HEAD", "/anything"),
        ("OPTIONS", "*"),
        ("GET", "/health"),
        ("GET", "/health?probe=1"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
    ],
)
def test_what_monitors_ask_for_starts_nothing(method: str, target: str) -> None:
    assert _quiet(method, target)


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/"), ("POST", "/health"), ("GET", "/health/deep"), ("GET", "/v1/chat"), ("DELETE", "/x")],
)
def test_other_requests_do(method: str, target: str) -> None:
    assert not _quiet(method, target)


def test_the_root_is_no_health_path_although_it_is_probed() -> None:
    assert not _quiet("GET", "/", health="/")


def test_a_spec_may_say_what_is_quiet() -> None:
    rules = RequestRules(quiet_methods=(), quiet_paths=("/live",))
    assert _quiet("GET", "/live", rules)
    assert not _quiet("HEAD", "/", rules)
    assert not _quiet("GET", "/metrics", rules)
