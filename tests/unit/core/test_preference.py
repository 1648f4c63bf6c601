from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.preference import WAIT_S_MAX, Preference, preference_of


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("respond-async", Preference(respond_async=True)),
        ("Respond-Async, WAIT=10", Preference(respond_async=True, wait_s=10)),
        ('wait="7", return=minimal; x="a,respond-async"', Preference(wait_s=7)),
        ("foo; respond-async", Preference()),
        ("respond-async=no", Preference()),
        ('respond-async=""; foo=bar', Preference(respond_async=True)),
        ("wait=5, wait=9", Preference(wait_s=5)),
        ("wait=99999", Preference(wait_s=WAIT_S_MAX)),
        ("wait=-1", Preference()),
        ("wait=1.5", Preference()),
        ("", Preference()),
    ],
)
def test_a_preference_is_read_as_rfc_7240_writes_it(field: str, found: Preference) -> None:
    assert preference_of(field) == found


@given(st.text(alphabet='respond-async,;="wait 19', max_size=60))
def test_whatever_is_written_there_is_read_and_waits_are_bounded(field: str) -> None:
    wait_s = preference_of(field).wait_s
    assert wait_s is None or 0 <= wait_s <= WAIT_S_MAX
