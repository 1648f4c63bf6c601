from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.errors import BadFraming
from gpud.gateway.framing import NO_BODY, ChunkedBody, EndlessBody, LengthBody

chunk_bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
cuts = st.lists(st.integers(0, 400), max_size=8)


def _encode(chunks: list[bytes], extension: bytes, trailers: bytes) -> bytes:
    encoded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return encoded + b"0\r\n" + trailers + b"\r\n"


def _pieces(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(stream)) for place in places} | {len(stream)})
    starts = [0, *ends]
    return [stream[start:end] for start, end in zip(starts, ends, strict=False) if start < end]


def _run(body: ChunkedBody | LengthBody, pieces: list[bytes]) -> tuple[int, bytes] | str:
    """Feed a body; the number of bytes that were its own and what was inside, or the refusal."""
    own = 0
    inside: list[bytes] = []
    try:
        for piece in pieces:
            if body.done:
                break
            taken = body.take(piece, inside)
            own += taken
            if taken < len(piece):
                break
    except BadFraming:
        return "refused"
    return own, b"".join(inside)


@given(chunk_bodies, st.sampled_from([b"", b";a=b", b';q="x"']), st.sampled_from([b"", b"X: y\r\n"]), cuts)
def test_a_chunked_body_ends_where_it_ends_however_it_is_cut(
    chunks: list[bytes], extension: bytes, trailers: bytes, places: list[int]
) -> None:
    stream = _encode(chunks, extension, trailers)
    body = ChunkedBody()
    assert _run(body, _pieces(stream + b"GET / HTTP/1.1", places)) == (len(stream), b"".join(chunks))
    assert body.done


@given(st.binary(max_size=60), cuts)
def test_any_bytes_are_read_alike_whole_and_cut(stream: bytes, places: list[int]) -> None:
    whole, cut = ChunkedBody(), ChunkedBody()
    assert _run(whole, [stream] if stream else []) == _run(cut, _pieces(stream, places))
    assert whole.done == cut.done


@given(st.text("0123456789abcdefgx;\r\n :\t", max_size=40).map(str.encode), cuts)
def test_near_chunks_are_read_alike_whole_and_cut(stream: bytes, places: list[int]) -> None:
    whole, cut = ChunkedBody(), ChunkedBody()
    assert _run(whole, [stream] if stream else []) == _run(cut, _pieces(stream, places))
    assert whole.done == cut.done


@given(st.binary(max_size=50), st.integers(0, 60), cuts)
def test_a_body_of_known_length_takes_just_that(stream: bytes, length: int, places: list[int]) -> None:
    body = LengthBody(length)
    taken = _run(body, _pieces(stream, places))
    assert not isinstance(taken, str), taken
    own, inside = taken
    assert own == min(length, len(stream))
    assert inside == stream[:length]
    assert body.done == (length <= len(stream))


def test_no_body_takes_nothing_and_an_endless_one_everything() -> None:
    assert NO_BODY.take(b"abc") == 0
    assert NO_BODY.done
    body = EndlessBody()
    assert body.take(b"abc") == 3
    assert not body.done


def test_a_size_line_cannot_grow_without_end() -> None:
    body = ChunkedBody()
    assert _takes_at_most(body, [b"1;", *[b"aaaaaaaa"] * 1000]) < 300


def test_trailers_cannot_grow_without_end() -> None:
    body = ChunkedBody()
    assert _takes_at_most(body, [b"0\r\n", *[b"X: yyyyyyyyyyyy\r\n"] * 10_000]) < 17_000


def test_extensions_may_not_outweigh_the_chunks() -> None:
    body = ChunkedBody()
    assert _takes_at_most(body, [b"1;" + b"a" * 200 + b"\r\nx\r\n"] * 1000) < 20_000


def _takes_at_most(body: ChunkedBody, pieces: list[bytes]) -> int:
    """Feed pieces until one is refused; the bytes taken before it."""
    taken = 0
    for piece in pieces:
        try:
            taken += body.take(piece)
        except BadFraming:
            return taken
    return pytest.fail("nothing was refused")
