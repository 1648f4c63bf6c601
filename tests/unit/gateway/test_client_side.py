from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpud.gateway import overstaying
from tests.unit.gateway.wires import REMOTE, Bench

_REQUESTS = (
    b"GET /e/llm/one HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /e/llm/two HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello world",
    (
        b"POST /e/llm/three HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: 1\r\n\r\n"
    ),
    b"HEAD /e/llm/four HTTP/1.1\r\nHost: x\r\n\r\n",
)
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nT: 2\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
)
cuts = st.lists(st.integers(0, 500), max_size=10)


def _pieces(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(stream)) for place in places} | {len(stream)})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


def _exchange(requests: list[bytes], answers: list[list[bytes]]) -> tuple[bytes, bytes]:
    """Run all four requests over one connection; what the worker and the client were sent."""

    async def run() -> tuple[bytes, bytes]:
        bench = Bench()
        for piece in requests:
            bench.client.data_received(piece)
        to_worker = b""
        for answer in answers:
            for _ in range(3):
                await asyncio.sleep(0)
            to_worker += bench.worker_wire.taken()
            for piece in answer:
                bench.worker.data_received(piece)
        assert len(bench.pool.connections) == 1
        assert bench.plane.exchanges == 0
        assert bench.dispatcher.total_in_flight() == 0
        return to_worker, bench.wire.taken()

    return asyncio.run(run())


_WHOLE = _exchange([b"".join(_REQUESTS)], [[answer] for answer in _ANSWERS])


@settings(deadline=None, max_examples=150)
@given(cuts, st.lists(cuts, min_size=4, max_size=4))
def test_any_cut_of_an_exchange_gives_what_the_whole_gives(
    request_cuts: list[int], answer_cuts: list[list[int]]
) -> None:
    answers = [_pieces(answer, places) for answer, places in zip(_ANSWERS, answer_cuts, strict=True)]
    assert _exchange(_pieces(b"".join(_REQUESTS), request_cuts), answers) == _WHOLE


def test_bodies_pass_as_they_were_framed() -> None:
    to_worker, to_client = _WHOLE
    assert b"\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: 1\r\n\r\n" in to_worker
    assert b"\r\n\r\n3\r\ntwo\r\n0\r\nT: 2\r\n\r\n" in to_client
    assert to_client.count(b"HTTP/1.1 ") == 5


async def test_a_head_that_is_not_whole_costs_nothing_while_it_waits() -> None:
    bench = Bench()
    bench.client.data_received(b"GET /e/llm/ HTTP/1.1\r\nHost")
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    assert not [handle for handle in loop._ready if "next_request" in repr(handle)]  # type: ignore[attr-defined]


async def test_a_remote_clients_forwarding_fields_are_replaced() -> None:
    bench = Bench()
    bench.client.data_received(
        b"GET /e/llm/ HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n"
        b"Forwarded: for=127.0.0.1\r\n\r\n"
    )
    sent = bench.worker_wire.taken()
    assert b"X-Forwarded-For: %b\r\n" % REMOTE[0].encode() in sent
    assert b"127.0.0.1" not in sent
    assert b"X-Forwarded-Proto: http\r\n" in sent


async def test_a_slow_head_ends_in_408() -> None:
    bench = Bench()
    bench.client.data_received(b"GET /e/llm/ HTTP/1.1\r\n")
    for _ in range(30):
        bench.clock.time_s += 1
        bench.client.data_received(b"X: y\r\n")
        bench.plane.sweep(bench.clock.time_s)
    assert bench.wire.taken().startswith(b"HTTP/1.1 408 ")
    assert bench.wire.aborted


async def test_an_idle_connection_is_closed() -> None:
    bench = Bench()
    bench.plane.sweep(bench.clock.time_s + overstaying.IDLE_S_MAX - 1)
    assert not bench.wire.closed
    bench.plane.sweep(bench.clock.time_s + overstaying.IDLE_S_MAX + 1)
    assert bench.wire.closed


async def test_a_stalled_body_ends_in_408_and_frees_the_slot() -> None:
    bench = Bench()
    bench.client.data_received(b"POST /e/llm/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    assert bench.dispatcher.total_in_flight() == 1
    bench.clock.time_s += overstaying.STALL_S_MAX - 1
    bench.client.data_received(b"c")
    bench.clock.time_s += overstaying.STALL_S_MAX - 1
    bench.plane.sweep(bench.clock.time_s)
    assert bench.dispatcher.total_in_flight() == 1
    bench.clock.time_s += overstaying.STALL_S_MAX + 1
    bench.plane.sweep(bench.clock.time_s)
    assert bench.wire.taken().startswith(b"HTTP/1.1 408 ")
    assert bench.dispatcher.total_in_flight() == 0


async def test_pipelined_requests_beyond_the_limit_stop_the_reading() -> None:
    bench = Bench()
    bench.client.data_received(_REQUESTS[0])
    bench.client.data_received(_REQUESTS[0] * 2000)
    assert not bench.wire.reading
    for _ in range(2001):
        bench.worker.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
        await asyncio.sleep(0)
    assert bench.wire.reading
    assert bench.wire.taken().count(b"HTTP/1.1 204") == 2001


async def test_a_held_body_stops_the_reading_and_starts_it_again() -> None:
    bench = Bench(ready=False)
    bench.client.data_received(b"POST /e/llm/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    bench.client.data_received(b"x" * 300_000)
    assert not bench.wire.reading
    bench.publish(ready=True)
    assert bench.wire.reading
    assert bench.worker_wire.written.endswith(b"x" * 300_000)


async def test_a_slow_client_stops_the_reading_of_its_worker() -> None:
    bench = Bench()
    bench.client.data_received(_REQUESTS[0])
    bench.worker.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    bench.client.pause_writing()
    assert not bench.worker_wire.reading
    bench.client.resume_writing()
    assert bench.worker_wire.reading


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    bench = Bench()
    bench.client.data_received(_REQUESTS[0])
    bench.worker.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    bench.client.pause_writing()
    bench.plane.sweep(bench.clock.time_s + overstaying.UNREAD_S_MAX + 1)
    assert bench.wire.aborted
    assert bench.worker_wire.aborted
    assert bench.dispatcher.total_in_flight() == 0


async def test_a_connection_paused_by_its_client_is_read_again_in_the_pool() -> None:
    bench = Bench()
    bench.client.data_received(_REQUESTS[0])
    bench.client.pause_writing()
    bench.worker.data_received(_ANSWERS[0])
    assert bench.worker_wire.reading
    bench.client.data_received(_REQUESTS[0])
    assert bench.worker_wire.taken().count(b"GET /one") == 1  # the next waits for the slow client
    bench.client.resume_writing()
    assert bench.worker_wire.taken().count(b"GET /one") == 1


@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non"])
async def test_a_client_that_leaves_frees_worker_and_slot(received: bytes) -> None:
    bench = Bench()
    bench.client.data_received(_REQUESTS[0])
    if received:
        bench.worker.data_received(received)
    bench.client.connection_lost(None)
    assert bench.worker_wire.aborted
    assert bench.dispatcher.total_in_flight() == 0
    assert bench.plane.exchanges == 0
    assert not bench.plane.clients


async def test_a_chunked_body_over_the_limit_is_refused() -> None:
    bench = Bench(body_bytes_max=1000)
    bench.client.data_received(b"POST /e/llm/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    bench.client.data_received(b"400\r\n" + b"x" * 1024)
    assert bench.wire.taken().startswith(b"HTTP/1.1 413 ")
    assert bench.worker_wire.aborted
    assert bench.dispatcher.total_in_flight() == 0


async def test_a_get_that_died_on_a_used_connection_is_sent_again_on_a_fresh_one() -> None:
    bench = Bench()
    bench.client.data_received(_REQUESTS[0])
    bench.worker.data_received(_ANSWERS[0])
    bench.client.data_received(_REQUESTS[0])
    bench.worker.connection_lost(ConnectionResetError())
    assert len(bench.pool.connections) == 2
    bench.worker.data_received(_ANSWERS[0])
    assert bench.wire.taken().count(b"HTTP/1.1 200") == 2
    assert bench.dispatcher.total_in_flight() == 0


async def test_a_post_that_may_have_reached_its_worker_is_not_sent_again() -> None:
    bench = Bench()
    bench.client.data_received(_REQUESTS[1])
    bench.worker.connection_lost(ConnectionResetError())
    assert len(bench.pool.connections) == 1
    assert bench.wire.taken().startswith(b"HTTP/1.1 502 ")
    assert bench.dispatcher.total_in_flight() == 0


async def test_a_tunnel_passes_each_half_and_closes_each_by_itself() -> None:
    bench = Bench()
    bench.client.data_received(
        b"GET /e/llm/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nahead"
    )
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" in bench.worker_wire.taken()
    bench.worker.data_received(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello"
    )
    assert bench.wire.taken().endswith(b"\r\n\r\nhello")
    assert bench.worker_wire.taken() == b"ahead"
    bench.client.data_received(b"\r\n\r\n\0")
    assert bench.worker_wire.taken() == b"\r\n\r\n\0"
    assert bench.client.eof_received()
    assert bench.worker_wire.ended
    assert not bench.wire.is_closing()
    bench.worker.data_received(b"last words")
    assert bench.wire.taken() == b"last words"
    assert bench.dispatcher.total_in_flight() == 1
    bench.worker.eof_received()
    assert bench.wire.closed
    assert bench.worker_wire.closed
    assert bench.dispatcher.total_in_flight() == 0


async def test_a_half_closed_tunnel_ends_after_a_while() -> None:
    bench = Bench()
    bench.client.data_received(
        b"GET /e/llm/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    bench.worker.data_received(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    bench.plane.sweep(bench.clock.time_s + 10_000)
    assert bench.dispatcher.total_in_flight() == 1
    bench.client.eof_received()
    bench.plane.sweep(bench.clock.time_s + 61)
    assert bench.dispatcher.total_in_flight() == 0
    assert bench.wire.closed
