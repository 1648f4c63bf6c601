from __future__ import annotations

import pytest

from gpud.core.engine_advice import engine_warnings, runtime_for


@pytest.mark.parametrize(
    ("wanted", "runtimes", "default", "chosen"),
    [
        ("auto", {"runc", "crun"}, "runc", "crun"),
        ("auto", {"runc"}, "runc", ""),
        ("auto", {"runc", "crun", "nvidia"}, "nvidia", ""),
        ("auto", {"runc", "crun"}, "crun", ""),
        ("runc", {"runc", "crun"}, "crun", "runc"),
        ("kata", {"runc"}, "runc", "kata"),
    ],
)
def test_the_fast_runtime_is_used_where_it_is_registered_and_none_was_chosen(
    wanted: str, runtimes: set[str], default: str, chosen: str
) -> None:
    assert runtime_for(wanted, runtimes=runtimes, default=default) == chosen


@pytest.mark.parametrize(
    ("version", "word"),
    [("20.10.24+dfsg1", "before 28.0"), ("27.5.1", "before 28.0"), ("28.0.0", "--checkpoint"), ("dev", "")],
)
def test_an_engines_version_says_what_it_costs(version: str, word: str) -> None:
    said = engine_warnings(version=version, api_version="1.41", runtimes={"crun"}, storage_driver="overlay2")
    assert len(said) == bool(word)
    assert all(word in each for each in said)


def test_an_old_api_a_missing_crun_and_a_store_without_paths_are_told() -> None:
    said = engine_warnings(version="dev", api_version="1.40", runtimes=(), storage_driver="overlayfs")
    assert ["1.40" in said[0], "crun" in said[1], "overlayfs" in said[2]] == [True] * 3
