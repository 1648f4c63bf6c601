from __future__ import annotations

import pytest

from gpud.core.request_path import is_request_path


@pytest.mark.parametrize("path", ["/", "/health", "/sleep?level=1", "/a%20b", "/a~b;c"])
def test_a_path_that_can_be_written_as_it_is_may_be_asked_for(path: str) -> None:
    assert is_request_path(path)


@pytest.mark.parametrize("path", ["", "health", "/a b", "/a\r\nHost: x", "/\x00", "/caf\u00e9", "http://x/"])
def test_what_would_end_or_change_the_request_may_not(path: str) -> None:
    assert not is_request_path(path)
