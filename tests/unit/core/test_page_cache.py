from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import EndpointSpec, Volume
from gpud.core.ids import EndpointName
from gpud.core.page_cache import FileSet, PageCachePolicy, file_sets_of, ranges_of, within_budget
from gpud.errors import InvalidSpec

PAGE = 4096
VOLUMES = (Volume(source="/srv/models", target="/models"), Volume(source="/srv/lora", target="/models/lora"))


def spec(*patterns: str) -> EndpointSpec:
    policy = PageCachePolicy(files=patterns)
    return EndpointSpec(name=EndpointName("llm"), image="a/b:1", volumes=VOLUMES, page_cache=policy)


@given(st.lists(st.integers(0, 1), max_size=200), st.integers(0, 5))
def test_ranges_hold_every_resident_page_and_no_gap_longer_than_allowed(pages: list[int], gap: int) -> None:
    ranges = ranges_of(pages, page_bytes=PAGE, gap_pages=gap)
    covered = {page for offset, length in ranges for page in range(offset // PAGE, (offset + length) // PAGE)}
    assert covered >= {number for number, here in enumerate(pages) if here}
    for offset, length in ranges:
        first, last = offset // PAGE, (offset + length) // PAGE - 1
        assert pages[first] == pages[last] == 1
        inside = "".join(map(str, pages[first : last + 1]))
        assert "0" * (gap + 1) not in inside
    for (offset, length), (following, _) in itertools.pairwise(ranges):
        assert (following - offset - length) // PAGE > gap


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 300))
def test_a_budget_is_used_in_order_and_never_exceeded(lengths: list[int], budget: int) -> None:
    ranges = [(f"/f{number}", 0, length) for number, length in enumerate(lengths)]
    chosen = within_budget(ranges, budget)
    assert sum(length for _, _, length in chosen) == min(budget, sum(lengths))
    assert [path for path, _, _ in chosen] == [path for path, _, _ in ranges[: len(chosen)]]


def test_a_pattern_means_files_of_the_innermost_volume() -> None:
    assert file_sets_of(spec("/models/**", "/models/lora/*.bin")) == (
        FileSet(root="/srv/models", pattern="**"),
        FileSet(root="/srv/lora", pattern="*.bin"),
    )


@pytest.mark.parametrize("pattern", ["models/**", "/models/../etc/*", "/weights/**"])
def test_a_pattern_outside_the_volumes_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSpec, match=r"page_cache\.files\.0"):
        spec(pattern)
