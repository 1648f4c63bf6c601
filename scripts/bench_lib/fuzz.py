"""Feeds the gateway's parsers what no test thought of, for as long as it is told.

Inputs are mutations of the malformed corpus and of legal exchanges. Whatever comes, a parser may refuse it
and nothing else: no other exception, no different answer when the same bytes come in pieces, no answer from
a recalled head that parsing it would not give, no input that takes long. An input that breaks one of these is
kept in `tests/unit/gateway/fuzz_corpus`, which is replayed first, and the run fails.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench_lib.report import Report, add_arguments

from gpud.errors import BadFraming
from gpud.gateway.framing import ChunkedBody
from gpud.gateway.heads import check_unfinished, parse_request, parse_response
from gpud.gateway.openai import model_in_body
from gpud.gateway.recall import RequestHeads
from tests.contract.gateway.malformed import KEY, MALFORMED
from tests.unit.gateway.wires import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = Path(__file__).parents[2] / "tests" / "unit" / "gateway" / "fuzz_corpus"
SLOW_S = 0.5
INPUT_BYTES_MAX = 20_000
WORDS = [
    *(b"\r\n", b"\r", b"\n", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"1", b"f", b"\xff", b"\\", b'"'),
    *(b"\r\n\r\n", b"0\r\n\r\n", b"HTTP/1.1", b"Host: x\r\n", b"Connection: close\r\n", b'{"model":"llm"}'),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
]
LEGAL = [
    b"GET /e/llm/a HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n",
    b"POST /e/llm/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    (
        b"POST /e/llm/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n"
    ),
    b"POST /openai/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n" + b'{"model":"llm"}',
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
    b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nframes",
]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench fuzz", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(argv)
    seconds = 5.0 if options.quick else options.seconds
    seed = options.seed if options.seed is not None else time.time_ns()
    report, broken = Report("fuzz", ["httptools"]), 0
    for target in (_heads, _bodies, _connections, _models):
        runs, found = _fuzz(target, random.Random(seed), seconds)  # noqa: S311 - a seed, not a secret
        report.add(f"inputs{target.__name__}", "gpud", "inputs", [runs])
        broken += found
    print(f"seed {seed}, {broken} inputs kept")
    report.finish(options)
    return 1 if broken else 0


def _fuzz(
    target: Callable[[bytes, random.Random], None], chance: random.Random, seconds: float
) -> tuple[int, int]:
    pool = [*(path.read_bytes() for path in sorted(CORPUS.glob("*"))), *LEGAL, *MALFORMED.values()]
    pool = [entry[:INPUT_BYTES_MAX] for entry in pool]
    runs = broken = 0
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s or runs < len(pool):
        data = pool[runs] if runs < len(pool) else _mutated(chance.choice(pool), pool, chance)
        runs += 1
        began_s = time.process_time()
        try:
            target(data, chance)
            fault = "slow" if time.process_time() - began_s > SLOW_S else ""
        except Exception as error:  # noqa: BLE001 - any of them is the find
            fault = repr(error)
        if fault:
            broken += 1
            CORPUS.mkdir(exist_ok=True)
            path = CORPUS / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"{target.__name__} {path.name}: {fault}")
    return runs, broken


def _mutated(data: bytes, pool: list[bytes], chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(5):
            case 0:
                out[at:at] = chance.choice(WORDS)
            case 1:
                del out[at : at + chance.randrange(1, 12)]
            case 2 if at < len(out):
                out[at] = chance.randrange(256)
            case 3:
                other = chance.choice(pool)
                start = chance.randrange(len(other) + 1)
                out[at:at] = other[start : start + chance.randrange(200)]
            case _:
                out[at:at] = out[at : at + chance.randrange(1, 60)]
    return bytes(out[:INPUT_BYTES_MAX])


def _cut(data: bytes, chance: random.Random) -> list[bytes]:
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


def _heads(data: bytes, chance: random.Random) -> None:
    head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    outcomes = []
    known = RequestHeads()
    for read in (parse_request, known.read, known.read):
        try:
            found = read(head)
            outcomes.append((found.target, found.length, found.chunked, found.keep_alive, tuple(found.lines)))
        except BadFraming:
            outcomes.append(None)
    _require(len(set(outcomes)) == 1, "a recalled head differs")
    for method in ("GET", "HEAD"):
        try:
            parse_response(head, method)
        except BadFraming:
            continue
    try:
        check_unfinished(data[: chance.randrange(len(data) + 1)])
    except BadFraming:
        return


def _bodies(data: bytes, chance: random.Random) -> None:
    outcomes = []
    for pieces in ([data], _cut(data, chance)):
        body, own, inside = ChunkedBody(), 0, []
        try:
            for piece in pieces:
                taken = body.take(piece, inside) if not body.done else 0
                own += taken
                if body.done:
                    break
            outcomes.append((own, body.done, b"".join(inside)))
        except BadFraming:
            outcomes.append(None)
    _require(outcomes[0] == outcomes[1], "cut and whole differ")


def _connections(data: bytes, chance: random.Random) -> None:
    first = asyncio.run(_conversation([data], chance))
    second = asyncio.run(_conversation(_cut(data, chance), chance))
    if first[1]:  # a refusal: how much was sent before it depends on when the fault came
        first, second = (b"", first[1]), (b"", second[1])
    _require(first == second, "cut and whole differ")


async def _conversation(pieces: list[bytes], chance: random.Random) -> tuple[bytes, bytes]:
    """Send bytes as a client; what reached the worker before any answer, and the status that came back."""
    bench = Bench()
    for piece in pieces:
        if not bench.wire.is_closing():
            bench.client.data_received(piece)
    for _ in range(3):
        await asyncio.sleep(0)
    sent = bench.pool.wires[0].written if bench.pool.wires else b""
    status = bench.wire.written[:12]
    if bench.pool.connections and not bench.worker.closed:
        bench.worker.data_received(chance.choice(LEGAL[4:]))
    bench.client.connection_lost(None)
    _require(bench.dispatcher.total_in_flight() == 0, "a slot is kept")
    _require(bench.plane.exchanges == 0, "an exchange is kept")
    return sent, status


def _models(data: bytes, chance: random.Random) -> None:
    kind = chance.choice(["application/json", "multipart/form-data; boundary=x", ""])
    model_in_body(data, kind)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)
