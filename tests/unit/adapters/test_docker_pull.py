"""Adding up a pull."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpud.adapters.docker_pull import PullMeter

STATUSES = [
    "Pulling fs layer",
    "Waiting",
    "Downloading",
    "Verifying Checksum",
    "Download complete",
    "Extracting",
    "Pull complete",
    "Already exists",
    "Retrying in 5 seconds",
]


def message(layer: str, status: str, current: int | None = None, total: int | None = None) -> dict[str, Any]:
    detail = {name: value for name, value in (("current", current), ("total", total)) if value is not None}
    return {"id": layer, "status": status, "progressDetail": detail}


def test_a_pull_adds_up_over_its_layers() -> None:
    meter = PullMeter()
    for layer, total in (("a", 100), ("b", 300)):
        assert meter.feed(message(layer, "Pulling fs layer"))
        assert meter.feed(message(layer, "Downloading", 10, total))
    assert (meter.progress.layers, meter.progress.layers_done) == (2, 0)
    assert (meter.progress.bytes_total, meter.progress.bytes_done) == (400, 20)
    assert meter.feed(message("a", "Download complete"))
    assert meter.progress.bytes_done == 110
    assert meter.feed(message("a", "Extracting", 50, 100))
    assert meter.feed(message("a", "Pull complete"))
    assert (meter.progress.layers_done, meter.progress.bytes_done) == (1, 110)
    meter.feed(message("b", "Pull complete"))
    assert meter.progress.bytes_done == meter.progress.bytes_total == 400


def test_a_layer_that_is_here_counts_as_done_without_bytes() -> None:
    meter = PullMeter()
    assert meter.feed(message("a", "Already exists"))
    assert (meter.progress.layers, meter.progress.layers_done, meter.progress.bytes_total) == (1, 1, 0)


def test_waiting_and_trying_again_are_no_progress() -> None:
    meter = PullMeter()
    meter.feed(message("a", "Pulling fs layer"))
    meter.feed(message("a", "Downloading", 50, 100))
    for status in ("Waiting", "Retrying in 5 seconds", "Retrying in 4 seconds", "Verifying Checksum"):
        assert not meter.feed(message("a", status))
    assert not meter.feed(message("a", "Downloading", 10, 100))  # It started over.
    assert meter.progress.bytes_done == 50
    assert meter.feed(message("a", "Downloading", 51, 100))


def test_seconds_that_pass_while_unpacking_are_no_progress() -> None:
    meter = PullMeter()
    meter.feed(message("a", "Extracting"))
    ticking = {"id": "a", "status": "Extracting", "progressDetail": {"current": 7, "units": "s"}}
    assert not meter.feed(ticking)


def test_messages_about_no_layer_are_left_out() -> None:
    meter = PullMeter()
    for other in (
        {"status": "Pulling from team/app", "id": "latest"},
        {"status": "Digest: sha256:abc"},
        {"status": "Status: Downloaded newer image for app"},
        {},
    ):
        assert not meter.feed(other)
    assert meter.progress.layers == 0


@given(
    st.lists(
        st.builds(
            message,
            st.sampled_from("abc"),
            st.sampled_from(STATUSES),
            st.integers(0, 1000) | st.none(),
            st.integers(-1, 1000) | st.none(),
        )
    )
)
def test_progress_never_goes_back_and_never_passes_its_total(messages: list[dict[str, Any]]) -> None:
    meter = PullMeter()
    before = meter.progress
    for each in messages:
        moved = meter.feed(each)
        after = meter.progress
        assert 0 <= after.bytes_done <= after.bytes_total
        assert 0 <= after.layers_done <= after.layers
        assert after.bytes_done >= before.bytes_done
        assert after.layers_done >= before.layers_done
        assert moved or (after.bytes_done, after.layers_done) == (before.bytes_done, before.layers_done)
        before = after
