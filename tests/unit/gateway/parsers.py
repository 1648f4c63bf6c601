"""What must hold of the gateway's parsers whatever bytes they are given; the fuzzer's targets.

A parser may refuse its input and nothing else: no other exception, no different answer when the same bytes
come in pieces, no answer from a recalled head that parsing it would not give.
"""

from __future__ import annotations

import asyncio
import random
import re
import zlib
from typing import TYPE_CHECKING

from gpud.errors import BadFraming
from gpud.gateway.framing import ChunkedBody
from gpud.gateway.heads import check_unfinished, parse_request, parse_response
from gpud.gateway.openai import model_in_body
from gpud.gateway.recall import RequestHeads, ResponseHeads
from tests.contract.gateway.malformed import KEY, MALFORMED
from tests.unit.gateway.wires import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTS = [
    b"GET /e/llm/a HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n",
    b"POST /e/llm/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    (
        b"POST /e/llm/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n"
    ),
    b"GET /e/llm/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nframes",
    b"POST /openai/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n" + b'{"model":"llm"}',
    b"POST /e/llm/a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\nIdempotency-Key: k\r\n\r\nx",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 503 Busy\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nframes",
    (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"9\r\ndata: a\n\n\r\n0\r\n\r\n"
    ),
]
BODIES = [
    b'{"messages":[{"role":"user","content":"a \\"model\\": \\"b\\""}],"model":"llm"}',
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nllm\r\n--x--\r\n',
]


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    """Cut bytes into a few pieces."""
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


def request_heads(data: bytes) -> None:
    """A request's head is read alike the first time and when it is recalled."""
    head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    known = RequestHeads()
    outcomes: list[object] = []
    for read in (parse_request, known.read, known.read):
        try:
            found = read(head)
            outcomes.append((found.target, found.length, found.chunked, found.keep_alive, tuple(found.lines)))
        except BadFraming:
            outcomes.append(None)
    _require(len(set(outcomes)) == 1, "a recalled head differs")
    try:
        check_unfinished(data[: _chance(data).randrange(len(data) + 1)])
    except BadFraming:
        return


def answer_heads(data: bytes) -> None:
    """An answer's head is read alike the first time and when it is recalled, whatever was asked."""
    head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    known = ResponseHeads()
    for method in ("GET", "HEAD", "GET"):
        outcomes: list[object] = []
        for read in (parse_response, known.read):
            try:
                found = read(head, method)
                facts = (found.status, found.length, found.chunked, found.keep_alive, tuple(found.lines))
                outcomes.append((*facts, type(found.body)))
            except BadFraming:
                outcomes.append(None)
        _require(outcomes[0] == outcomes[1], "a recalled head differs")


def chunked_bodies(data: bytes) -> None:
    """A chunked body ends where it ends however it is cut."""
    outcomes: list[object] = []
    for pieces in ([data], cut(data, _chance(data))):
        body, own, inside = ChunkedBody(), 0, list[bytes]()
        try:
            for piece in pieces:
                own += body.take(piece, inside)
                if body.done:
                    break
            outcomes.append((own, body.done, b"".join(inside)))
        except BadFraming:
            outcomes.append(None)
    _require(outcomes[0] == outcomes[1], "cut and whole differ")


def client_connections(data: bytes) -> None:
    """A client's bytes mean the same however they are cut, and nothing is kept when it has left."""
    chance = _chance(data)
    first = _LOOP.run_until_complete(_conversation([data], chance))
    second = _LOOP.run_until_complete(_conversation(cut(data, chance), chance))
    if (
        first[1] and second[1]
    ):  # which of two faults is met first, and what went before it, is a matter of time
        return
    _require(first == second, "cut and whole differ")


def worker_connections(data: bytes) -> None:
    """A worker's bytes reach the client alike however they are cut, and nothing is kept at the end."""
    chance = _chance(data)
    request = REQUESTS[chance.choice([0, 0, 1, 3])]
    outcomes = [_LOOP.run_until_complete(_answered(request, p)) for p in ([data], cut(data, chance))]
    _require(outcomes[0] == outcomes[1], "cut and whole differ")


def models(data: bytes) -> None:
    """A model is found or not, in a form and in JSON, whatever the body."""
    for kind in ("application/json", "multipart/form-data; boundary=x", ""):
        found = model_in_body(data, kind)
        _require(found is None or len(found) <= len(data), "more than the body")


PARSERS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "request_heads": (request_heads, [*REQUESTS, *MALFORMED.values()]),
    "answer_heads": (answer_heads, ANSWERS),
    "chunked_bodies": (chunked_bodies, [b"5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\nrest", b"0\r\n\r\n"]),
    "client_connections": (client_connections, [*REQUESTS, *MALFORMED.values()]),
    "worker_connections": (worker_connections, ANSWERS),
    "models": (models, BODIES),
}
"""Each parser's target and the inputs a search begins with."""
_LOOP = asyncio.new_event_loop()


def _chance(data: bytes) -> random.Random:
    return random.Random(zlib.crc32(data))  # the same input is always cut alike


async def _conversation(pieces: list[bytes], chance: random.Random) -> tuple[bytes, bytes]:
    """Send bytes as a client; what reached the worker before any answer, and the status that came back."""
    bench = Bench()
    for piece in pieces:
        if not bench.wire.is_closing():
            bench.client.data_received(piece)
    await _turns()
    sent = bench.pool.wires[0].written if bench.pool.wires else b""
    status = bench.wire.written[:12]
    if bench.pool.connections and not bench.worker.closed:
        bench.worker.data_received(chance.choice(ANSWERS))
    bench.client.connection_lost(None)
    _require_nothing_kept(bench)
    return sent, status


async def _answered(request: bytes, pieces: list[bytes]) -> tuple[bytes, bool]:
    """Answer one request with these bytes; what the client got, and whether its connection was cut."""
    bench = Bench()
    bench.client.data_received(request)
    for piece in pieces:
        if not bench.worker.closed:
            bench.worker.data_received(piece)
    await _turns()
    if not bench.worker.closed and not bench.worker.eof_received():
        bench.worker.connection_lost(None)
    got = bench.wire.written
    refused = re.search(rb"^HTTP/1\.1 502", got, re.MULTILINE) is not None  # interim answers may go before
    aborted = bench.wire.aborted
    bench.client.connection_lost(None)
    _require_nothing_kept(bench)
    # An answer that breaks off may have been passed on up to any place before the fault.
    return (b"cut" if aborted else b"refused" if refused else _timeless(got)), aborted


def _timeless(got: bytes) -> bytes:
    return b"\r\n".join(line for line in got.split(b"\r\n") if not line.startswith(b"Server-Timing"))


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def _require_nothing_kept(bench: Bench) -> None:
    _require(bench.dispatcher.total_in_flight() == 0, "a slot is kept")
    _require(bench.plane.exchanges == 0, "an exchange is kept")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)
