from __future__ import annotations

from gpud.gateway.pool import IDLE_MAX, IDLE_S_MAX, Pool, Pools
from gpud.gateway.worker_side import WorkerConnection
from tests.unit.gateway.wires import Bench, Wire


def _connection(pool: Pool) -> tuple[WorkerConnection, Wire]:
    connection, wire = WorkerConnection(pool), Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_the_connection_used_last_is_taken_first() -> None:
    pool = Pool("10.0.0.1", 80)
    first, second = _connection(pool)[0], _connection(pool)[0]
    pool.give(first, 1.0)
    pool.give(second, 1.0)
    assert pool.take(1.0) is second
    assert pool.take(1.0) is first
    assert pool.take(1.0) is None


async def test_a_pool_keeps_no_more_than_its_limit() -> None:
    pool = Pool("10.0.0.1", 80)
    wires = []
    for _ in range(IDLE_MAX + 3):
        connection, wire = _connection(pool)
        wires.append(wire)
        pool.give(connection, 1.0)
    assert sum(wire.aborted for wire in wires) == 3


async def test_hundreds_of_connections_that_rest_at_once_are_all_there_for_the_next_requests() -> None:
    pool = Pool("10.0.0.1", 80)
    resting = [_connection(pool)[0] for _ in range(512)]
    for connection in resting:
        pool.give(connection, 1.0)
    assert [pool.take(1.0) for _ in resting] == resting[::-1]


async def test_what_was_idle_for_long_is_closed() -> None:
    pool = Pool("10.0.0.1", 80)
    connection, wire = _connection(pool)
    pool.give(connection, 1.0)
    pool.sweep(1.0 + IDLE_S_MAX - 1)
    assert not wire.aborted
    pool.sweep(1.0 + IDLE_S_MAX + 1)
    assert wire.aborted


async def test_a_connection_that_comes_back_to_a_forgotten_pool_is_closed() -> None:
    pools = Pools()
    pool = pools.of("10.0.0.1", 80)
    connection, wire = _connection(pool)
    pools.sweep(1.0)
    assert pools.of("10.0.0.1", 80) is not pool
    pool.give(connection, 1.0)
    assert wire.aborted


async def test_bytes_on_an_idle_connection_close_it() -> None:
    bench = Bench()
    bench.client.data_received(b"GET /e/llm/ HTTP/1.1\r\nHost: x\r\n\r\n")
    bench.worker.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    bench.worker.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert bench.worker_wire.aborted
    bench.client.data_received(b"GET /e/llm/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(bench.pool.connections) == 2
    assert b"evil" not in bench.wire.written
