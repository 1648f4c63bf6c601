"""WebSocket frames of a client, against a socket whose other end is held by the test."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest

from gpud.cli.exits import CommandFailed
from gpud.cli.websocket import BINARY, TEXT, Channel, Message, agreed, handshake, new_key
from gpud.cli.wire import Connection, Head

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    mine, theirs = socket.socketpair()
    theirs.settimeout(20)
    yield Channel(mine, b""), theirs
    mine.close()
    theirs.close()


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    first, size = bytes([opcode | (0x80 if fin else 0)]), len(data)
    if size < 126:
        return first + bytes([size]) + data
    if size < 65_536:
        return first + b"\x7e" + struct.pack(">H", size) + data
    return first + b"\x7f" + struct.pack(">Q", size) + data


def taken(theirs: socket.socket) -> tuple[int, bytes]:
    """One frame of the client, its mask taken off."""
    reader = theirs.makefile("rb")
    first, second = reader.read(2)
    assert second & 0x80, "a client masks what it sends"
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(reader.read(2 if length == 126 else 8), "big")
    mask, data = reader.read(4), reader.read(length)
    return first, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def received(channel: Channel, theirs: socket.socket, data: bytes) -> list[Message]:
    """What a channel makes of bytes that come in two parts, cut anywhere."""
    found: list[Message] = []
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        theirs.sendall(part)
        found += channel.receive()
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_messages_of_every_size_pass_both_ways(ends: tuple[Channel, socket.socket], size: int) -> None:
    channel, theirs = ends
    data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    channel.send(BINARY, data)
    assert taken(theirs) == (0x80 | BINARY, data)
    assert received(channel, theirs, frame(BINARY, data)) == [Message(BINARY, data)]
    assert not channel.closed


def test_fragments_are_joined_and_pings_between_them_answered(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    data = frame(TEXT, b"one ", fin=False) + frame(9, b"there?") + frame(0, b"two") + frame(BINARY, b"x")
    assert received(channel, theirs, data) == [Message(TEXT, b"one two"), Message(BINARY, b"x")]
    assert taken(theirs) == (0x8A, b"there?")


def test_what_the_socket_does_not_take_waits(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    channel.send(BINARY, b"x" * (4 << 20))
    assert channel.unsent_bytes > 0
    while channel.unsent_bytes:
        assert theirs.recv(1 << 20)
        channel.flush()
    assert not channel.closed


def test_the_end_is_noticed_whichever_way_it_comes() -> None:
    for last in (frame(8, b"\x03\xe8"), b""):
        mine, theirs = socket.socketpair()
        channel = Channel(mine, frame(TEXT, b"early"))
        theirs.sendall(frame(TEXT, b"late") + last)
        theirs.close()
        assert channel.receive() == [Message(TEXT, b"early"), Message(TEXT, b"late")]
        channel.receive()
        assert channel.closed
        channel.close()


def test_a_message_without_bounds_is_refused(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    theirs.sendall(b"\x82\x7f" + struct.pack(">Q", 1 << 40))
    with pytest.raises(CommandFailed, match="too long"):
        channel.receive()


def test_an_answer_that_does_not_fit_the_key_agrees_to_nothing() -> None:
    mine, theirs = socket.socketpair()
    connection = Connection(mine)
    theirs.sendall(
        b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x01x"
    )
    answer = connection.send(Head("GET", "/", {}), b"", 20).answer()
    assert agreed(answer, "dGhlIHNhbXBsZSBub25jZQ==")
    assert not agreed(answer, new_key())
    assert connection.take_over() == (mine, b"\x81\x01x")
    mine.close()
    theirs.close()
    assert handshake("k")["Sec-WebSocket-Key"] == "k"
