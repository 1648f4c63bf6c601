"""WebSocket cases in the manner of the Autobahn test suite: the tunnel must change nothing.

Each case is a conversation of raw frames with an echoing server, held once with the server itself and once
through the gateway. Every byte that comes back, and the end, must be the same.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

import pytest
import websockets

from tests.contract.gateway.rig import DEADLINE_S, TOKEN, Rig, ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MASK = b"\x37\xfa\x21\x3d"
_TEXT, _BINARY, _CLOSE, _PING, _PONG, _MORE = 1, 2, 8, 9, 10, 0


def _frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    size = len(payload)
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65_536:
        length = bytes([bit | 126]) + struct.pack(">H", size)
    else:
        length = bytes([bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return first + length + payload
    repeated = _MASK * (size // 4 + 1)
    hidden = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:size], "big")).to_bytes(size, "big")
    return first + length + _MASK + hidden


def _close(code: int = 1000, reason: bytes = b"") -> bytes:
    return _frame(_CLOSE, struct.pack(">H", code) + reason)


_END = _close()
_SNOW = "\N{SNOWMAN}".encode()
_SIZES = (0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 200_000)
Case = tuple[list[bytes], bytes]
"""Messages that are answered with one frame each, and what is sent last."""


def _sizes() -> dict[str, Case]:
    return {
        f"{name} of {size} bytes": ([_frame(opcode, b"*" * size)], _END)
        for name, opcode in (("text", _TEXT), ("binary", _BINARY))
        for size in _SIZES
    }


def _control() -> dict[str, Case]:
    return {
        "ping": ([_frame(_PING)], _END),
        "ping with a payload": ([_frame(_PING, bytes(range(125)))], _END),
        "ping too long": ([], _frame(_PING, b"x" * 126)),
        "ping in fragments": ([], _frame(_PING, b"x", fin=False)),
        "ten pings": ([_frame(_PING, b"%d" % i) for i in range(10)], _END),
        "unasked pong, then a message": ([_frame(_PONG, b"x") + _frame(_TEXT, b"a")], _END),
        **{
            f"reserved bits {rsv}": ([_frame(_TEXT, b"a")], _frame(_TEXT, b"b", rsv=rsv))
            for rsv in range(1, 8)
        },
        **{
            f"reserved opcode {opcode}": ([_frame(_TEXT, b"a")], _frame(opcode, b"b"))
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        },
        "not masked": ([_frame(_TEXT, b"a")], _frame(_TEXT, b"b", masked=False)),
    }


def _fragments() -> dict[str, Case]:
    parts = [_frame(_TEXT, b"one ", fin=False), _frame(_MORE, b"two ", fin=False), _frame(_MORE, b"three")]
    return {
        "three fragments": ([b"".join(parts)], _END),
        "fragments of nothing": ([_frame(_TEXT, fin=False) + _frame(_MORE, fin=False) + _frame(_MORE)], _END),
        "a ping between fragments": ([parts[0] + _frame(_PING, b"p"), parts[1] + parts[2]], _END),
        "a continuation of nothing": ([_frame(_TEXT, b"a")], _frame(_MORE, b"b")),
        "a message inside a message": ([], parts[0] + _frame(_TEXT, b"x")),
        "a close inside a message": ([], parts[0] + _END),
        "many fragments": (
            [_frame(_BINARY, b"", fin=False) + _frame(_MORE, b"x" * 100, fin=False) * 500 + _frame(_MORE)],
            _END,
        ),
    }


def _unicode() -> dict[str, Case]:
    cut = [
        _frame(_TEXT, _SNOW[:1], fin=False),
        _frame(_MORE, _SNOW[1:2], fin=False),
        _frame(_MORE, _SNOW[2:]),
    ]
    broken = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", _SNOW[:2], b"a" * 1000 + b"\x80"]
    return {
        "a character in three fragments": ([b"".join(cut)], _END),
        "every length of character": ([_frame(_TEXT, "a\u00e9\u2603\U0001f600".encode())], _END),
        **{f"broken UTF-8 {text[-4:]!r}": ([_frame(_TEXT, b"a")], _frame(_TEXT, text)) for text in broken},
        "broken UTF-8 as binary": ([_frame(_BINARY, b"\xff\xfe")], _END),
    }


def _closes() -> dict[str, Case]:
    return {
        "close without a code": ([], _frame(_CLOSE)),
        "close with half a code": ([], _frame(_CLOSE, b"\x03")),
        "close with the longest reason": ([], _close(1000, b"x" * 123)),
        "close too long": ([], _frame(_CLOSE, b"\x03\xe8" + b"x" * 124)),
        "close with broken UTF-8": ([], _close(1000, b"\xff")),
        "a message after the close": ([_frame(_TEXT, b"a")], _END + _frame(_TEXT, b"b")),
        "a ping after the close": ([_frame(_TEXT, b"a")], _END + _frame(_PING)),
        "two closes": ([], _END + _END),
        **{
            f"close {code}": ([], _close(code))
            for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
        },
        **{
            f"illegal close {code}": ([], _close(code))
            for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535)
        },
    }


CASES = {**_sizes(), **_control(), **_fragments(), **_unicode(), **_closes()}


@pytest.fixture
async def ports(rig: Rig) -> AsyncIterator[tuple[int, int]]:
    """The echoing server's own port, and the gateway's."""

    async def echo(ws: websockets.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async with websockets.serve(
        echo, "127.0.0.1", 0, max_size=None, ping_interval=None, compression=None, close_timeout=DEADLINE_S
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        rig.publish(ScriptedWorker((await rig.worker()).worker_id, port=port))
        yield port, rig.port
    await rig.until(lambda: rig.in_flight() == 0)


async def _open(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(
        f"GET /e/llm/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    if size >= 126:
        more = await reader.readexactly(2 if size == 126 else 8)
        head, size = head + more, int.from_bytes(more, "big")
    return head + await reader.readexactly(size)


async def _converse(port: int, case: Case, *, pieces: int = 0) -> list[bytes]:
    messages, last = case
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await _open(port)
        got = []
        for message in messages:
            for at in range(0, len(message), pieces or len(message)):
                writer.write(message[at : at + (pieces or len(message))])
                if pieces:
                    await writer.drain()
                    await asyncio.sleep(0)
            got.append(await _read_frame(reader))
        writer.write(last)
        try:
            got.append(await reader.read())
        except ConnectionResetError:
            got.append(b"reset")
        writer.close()
    return got


async def test_every_case_is_the_same_through_the_tunnel(ports: tuple[int, int]) -> None:
    assert len(CASES) > 80
    server, gateway = ports
    names = list(CASES)
    direct = await asyncio.gather(*(_converse(server, CASES[name]) for name in names))
    tunnelled = await asyncio.gather(*(_converse(gateway, CASES[name]) for name in names))
    differing = {
        name: (a[-1][:80], b[-1][:80]) for name, a, b in zip(names, direct, tunnelled, strict=True) if a != b
    }
    assert not differing


@pytest.mark.parametrize("pieces", [1, 7, 997])
async def test_frames_in_pieces_are_the_same_through_the_tunnel(ports: tuple[int, int], pieces: int) -> None:
    server, gateway = ports
    small = {name: case for name, case in CASES.items() if sum(map(len, case[0])) <= 3000 * pieces}
    results = [
        await asyncio.gather(*(_converse(port, case, pieces=pieces) for case in small.values()))
        for port in (server, gateway)
    ]
    assert results[0] == results[1]


async def test_large_messages_return_whole(ports: tuple[int, int]) -> None:
    for size in (1 << 20, 4 << 20, 16 << 20):
        message = _frame(_BINARY, bytes(range(256)) * (size // 256))
        sent = await _converse(ports[1], ([message], _END))
        assert len(sent[0]) == size + 10
        assert sent[0][10:] == bytes(range(256)) * (size // 256)


async def test_a_client_may_close_its_half_and_still_hear(rig: Rig) -> None:
    async def answer_at_the_end(
        _worker: ScriptedWorker, _seen: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        received = await reader.read()  # to the end of the client's half
        writer.write(b"heard %d" % len(received))
        writer.write_eof()

    worker = await rig.worker(answer=answer_at_the_end)
    rig.publish(worker)
    reader, writer = await _open(rig.port)
    writer.write(b"x" * 300_000)
    writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b"heard 300000"
    await rig.until(lambda: rig.in_flight() == 0)
    writer.close()


async def test_a_worker_may_close_its_half_and_still_hear(rig: Rig) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def speak_first(
        _worker: ScriptedWorker, _seen: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nlast")
        writer.write_eof()
        heard.set_result(await reader.read())

    rig.publish(await rig.worker(answer=speak_first))
    reader, writer = await _open(rig.port)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b"last"
        writer.write(b"still here")
        writer.write_eof()
        assert await heard == b"still here"
    await rig.until(lambda: rig.in_flight() == 0)
    writer.close()
