from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.key_shares import line_of, pieces, shares_of, shares_until
from gpud.core.metering import Phase

measured = st.dictionaries(st.sampled_from(["key_a", "key_b", "key_c", "(public)"]), st.integers(-5, 10**13))


@given(st.integers(0, 10**15), measured)
def test_keys_have_all_of_an_active_stretch_if_any_was_measured(
    duration_ns: int, had: dict[str, int]
) -> None:
    shares = shares_of(Phase.ACTIVE, duration_ns, had)
    assert sum(ns for _key, ns in shares) == (duration_ns if any(ns > 0 for ns in had.values()) else 0)
    total = sum(ns for ns in had.values() if ns > 0)
    for key, ns in shares:
        assert abs(ns - duration_ns * had[key] / total) <= len(had) + 1e-6 * ns


@given(st.sampled_from(list(Phase)), st.integers(0, 10**15), measured)
def test_keys_never_have_more_than_a_stretch_and_nothing_where_no_request_can_run(
    phase: Phase, duration_ns: int, had: dict[str, int]
) -> None:
    shares = shares_of(phase, duration_ns, had)
    assert sum(ns for _key, ns in shares) <= duration_ns
    assert all(ns > 0 for _key, ns in shares)
    if phase not in (Phase.ACTIVE, Phase.DRAIN, Phase.UNREADY):
        assert shares == ()


def test_of_a_draining_worker_keys_have_what_was_measured() -> None:
    assert shares_of(Phase.DRAIN, 100, {"key_a": 30}) == (("key_a", 30),)
    assert shares_of(Phase.DRAIN, 10, {"key_a": 30, "key_b": 10}) == (("key_a", 7), ("key_b", 3))


@given(
    st.sampled_from([Phase.ACTIVE, Phase.DRAIN]),
    st.integers(1, 10**14),
    measured,
    st.lists(st.integers(0, 10**14), max_size=6),
)
def test_pieces_of_a_stretch_are_whole_none_below_zero_and_sum_to_its_shares(
    phase: Phase, duration_ns: int, had: dict[str, int], cuts: list[int]
) -> None:
    shares = shares_of(phase, duration_ns, had)
    borders = [0, *sorted(cut % (duration_ns + 1) for cut in cuts), duration_ns]
    summed: dict[str, int] = {}
    for start_ns, end_ns in pairwise(borders):
        piece = list(pieces(shares, duration_ns, start_ns, end_ns - start_ns))
        assert all(ns > 0 for _key, ns in piece)
        assert sum(ns for _key, ns in piece) == end_ns - start_ns
        for key, ns in piece:
            summed[key] = summed.get(key, 0) + ns
    rest_ns = summed.pop("", 0)
    assert summed == dict(shares)
    assert rest_ns == duration_ns - sum(ns for _key, ns in shares)


def test_nothing_of_a_stretch_without_length_is_shared_out() -> None:
    assert shares_until((("key_a", 5),), 0, 0) == {}


def test_every_phase_has_a_line_for_what_no_key_used() -> None:
    assert {line_of(phase) for phase in (Phase.SETUP, Phase.START)} == {"(starting)"}
    assert all(line_of(phase).startswith("(") for phase in Phase)
