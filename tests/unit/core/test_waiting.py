from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gpud.core
from gpud.core.ids import EndpointName
from gpud.core.waiting import REMEDIES, WaitReason, remedy

CORE = Path(gpud.core.__file__).parent


def _reasons_given() -> set[str]:
    """Every word the core passes as `reason` of a WaitReason."""
    words = set()
    for path in CORE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "WaitReason":
                [value] = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                words |= {n.value for n in ast.walk(value) if isinstance(n, ast.Constant)}
    return {str(word) for word in words}


def test_every_reason_that_is_given_has_a_remedy_and_no_other_has() -> None:
    assert _reasons_given() == set(REMEDIES)


@pytest.mark.parametrize("reason", REMEDIES)
def test_a_remedy_names_the_endpoint_where_it_names_a_command_for_it(reason: str) -> None:
    told = remedy(WaitReason(reason=reason, detail=""), EndpointName("llm"))
    assert told.endswith(".")
    assert "{" not in told
