from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.log_lines import (
    LineAssembler,
    LogStream,
    Resumption,
    StreamMark,
    full_stamp,
    marks_of,
    ns_of,
    parse_record,
    record,
    stamp_of,
)

STAMP = b"2026-11-22T05:22:16.504138921Z"
moments_ns = st.integers(min_value=0, max_value=4_000_000_000_000_000_000)
texts = st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b" "))


@given(moments_ns, st.sampled_from(list(LogStream)), texts)
def test_a_record_is_read_as_it_was_written(ns: int, stream: LogStream, text: bytes) -> None:
    line = parse_record(record(stamp_of(ns), stream.value.encode(), text)[:-1])
    assert line is not None
    assert ns_of(line.stamp) == ns
    assert line.stream is stream
    assert line.text == text.decode("utf-8", "replace")


@given(moments_ns, moments_ns)
def test_stamps_order_as_their_moments(one: int, other: int) -> None:
    assert (stamp_of(one) < stamp_of(other)) == (one < other)


@pytest.mark.parametrize(
    ("spelled", "full"),
    [
        (b"2026-11-22T05:22:16.504138921Z", b"2026-11-22T05:22:16.504138921Z"),
        (b"2026-11-22T05:22:16.5Z", b"2026-11-22T05:22:16.500000000Z"),
        (b"2026-11-22T05:22:16Z", b"2026-11-22T05:22:16.000000000Z"),
    ],
)
def test_what_engines_leave_out_of_a_moment_is_put_back(spelled: bytes, full: bytes) -> None:
    assert full_stamp(spelled) == full


@pytest.mark.parametrize("spelled", [b"", b"yesterday", b"2026-11-22T05:22:16+01:00", b"x" * 31])
def test_what_is_no_moment_is_refused(spelled: bytes) -> None:
    with pytest.raises(ValueError, match="not a moment"):
        full_stamp(spelled)


@pytest.mark.parametrize("raw", [b"", b"garbage", b"x" * 40, STAMP + b" stdfoo text"])
def test_what_is_no_record_is_none(raw: bytes) -> None:
    assert parse_record(raw) is None


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 20))
def test_a_line_in_pieces_is_the_line_within_its_bounds(pieces: list[bytes], kept: int, spare: int) -> None:
    pieces = [piece.replace(b"\n", b" ") for piece in pieces]
    whole = b"".join(pieces)
    assembler = LineAssembler(line_bytes_max=kept, spare_bytes=spare)
    for piece in pieces:
        assert assembler.add(STAMP, b"stdout", piece) is None
    line = assembler.add(b"later", b"stdout", b"\n")
    assert line == (STAMP, whole[: kept + spare], max(len(whole) - kept - spare, 0))
    shown = assembler.cut(line[1], line[2])
    if len(whole) <= kept:
        assert shown == whole
    else:
        assert shown == whole[:kept] + b" [%d more bytes left out]" % (len(whole) - kept)


def test_streams_do_not_mix_while_lines_are_unfinished() -> None:
    assembler = LineAssembler(line_bytes_max=100, spare_bytes=0)
    assert assembler.add(STAMP, b"stdout", b"half ") is None
    assert assembler.add(STAMP, b"stderr", b"whole\n") == (STAMP, b"whole", 0)
    assert assembler.add(STAMP, b"stdout", b"a line\n") == (STAMP, b"half a line", 0)


def test_a_line_without_an_end_is_given_out_in_the_end() -> None:
    assembler = LineAssembler(line_bytes_max=100, spare_bytes=0)
    assembler.add(STAMP, b"stderr", b"Segmentation fault")
    assert assembler.flush() == [(STAMP, b"stderr", b"Segmentation fault", 0)]
    assert assembler.flush() == []


def _rising(steps: list[tuple[int, bytes]]) -> list[tuple[bytes, bytes]]:
    """Lines in an engine's order: moments of a stream never fall, and several lines may share one."""
    at_ns, lines = 0, []
    for step_ns, stream in steps:
        at_ns += step_ns
        lines.append((stamp_of(at_ns), stream))
    return lines


_lines = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([b"stdout", b"stderr"])), max_size=40).map(
    _rising
)


@given(_lines, st.integers(0, 40))
def test_after_a_restart_at_any_line_each_line_is_kept_once(
    lines: list[tuple[bytes, bytes]], cut: int
) -> None:
    kept = lines[:cut]
    marks = marks_of([record(stamp, stream, b"text")[:-1] for stamp, stream in kept])
    resumption = Resumption(marks)
    assert kept + [line for line in lines if not resumption.known(*line)] == lines


def test_words_of_gpud_and_torn_records_are_no_marks() -> None:
    records = [b"n line of which the start is gone", record(STAMP, b"gpud", b"worker.ready")[:-1]]
    assert marks_of(records) == {}
    assert marks_of([*records, record(STAMP, b"stdout", b"a")[:-1]]) == {b"stdout": StreamMark(STAMP)}
