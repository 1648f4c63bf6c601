"""Replays what the fuzzer has kept: inputs that reach every branch of the parsers it has found a way to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.gateway.parsers import PARSERS

_CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", PARSERS)
def test_every_kept_input_is_read_or_refused(name: str) -> None:
    target, seeds = PARSERS[name]
    kept = [path.read_bytes() for path in sorted((_CORPUS / name).iterdir())]
    assert kept
    for data in (*seeds, *kept):
        target(data)
