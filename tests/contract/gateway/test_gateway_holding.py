from __future__ import annotations

import asyncio
import json
import re
import socket
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from gpud.core.ids import EndpointName, WorkerId
from gpud.core.routing import Refusal, RouteWorker, RoutingTable
from gpud.gateway import pool, progress
from tests.contract.gateway.rig import TOKEN, RecordingWatcher, Reply, Rig, refusing_port, route

if TYPE_CHECKING:
    import pytest

    from tests.contract.gateway.rig import Answer, RawClient, ScriptedWorker, Seen


def _are_waiting(rig: Rig, count: int) -> bool:
    return rig.waiting() == count


async def _hold(rig: Rig, count: int, target: str = "/e/llm/job/{}") -> list[RawClient]:
    """Send requests one after the other, each only once the one before it is held."""
    clients = []
    already = rig.waiting()
    for i in range(count):
        client = await rig.client()
        client.send("GET", target.format(i))
        await rig.until(partial(_are_waiting, rig, already + i + 1))
        clients.append(client)
    return clients


async def test_twenty_held_requests_are_all_answered_in_order_of_arrival(rig: Rig) -> None:
    rig.publish(concurrency=1)
    clients = await _hold(rig, 20)
    worker = await rig.worker()

    rig.publish(worker, concurrency=1)

    replies = await asyncio.gather(*(client.reply() for client in clients))
    assert [reply.status for reply in replies] == [200] * 20
    assert [seen.target for seen in worker.seen] == [f"/job/{i}" for i in range(20)]
    assert {reply.header("X-Gpud-Cold-Start") for reply in replies} == {"true"}
    await rig.until(lambda: rig.in_flight() == 0)
    assert rig.waiting() == 0


async def test_a_request_held_over_a_start_is_told_where_its_time_went(rig: Rig) -> None:
    watcher = RecordingWatcher()
    rig.dispatcher.watch(watcher)
    rig.publish(concurrency=1)
    clients = await _hold(rig, 2)
    worker = await rig.worker()
    phases = "start_engine_start;dur=187.0, start_listen;dur=900.0"

    rig.publish(
        RouteWorker(worker_id=worker.worker_id, address="127.0.0.1", port=worker.port, start_timing=phases),
        concurrency=1,
    )

    for client in clients:
        timing = (await client.reply()).header("Server-Timing") or ""
        assert re.fullmatch(
            rf"queue;dur=0, start;dur=[\d.]+, {phases}, connect;dur=[\d.]+, first_byte;dur=[\d.]+", timing
        )
    warm = await rig.get("/e/llm/")
    assert "start_listen" not in (warm.header("Server-Timing") or "")
    assert watcher.told.count(f"answered {worker.worker_id}") == 2


async def test_five_hundred_held_requests_are_all_answered_in_order_of_arrival(rig: Rig) -> None:
    rig.publish(concurrency=1, max_queue=500)
    clients = await _hold(rig, 500)
    worker = await rig.worker()

    rig.publish(worker, concurrency=1, max_queue=500)

    replies = await asyncio.gather(*(client.reply() for client in clients))
    assert [reply.status for reply in replies] == [200] * 500
    assert [seen.target for seen in worker.seen] == [f"/job/{i}" for i in range(500)]


async def test_a_held_request_whose_client_left_never_reaches_a_worker(rig: Rig) -> None:
    rig.publish(concurrency=1)
    clients = await _hold(rig, 3)
    clients[1].leave()
    await rig.until(lambda: rig.waiting() == 2)
    worker = await rig.worker()

    rig.publish(worker, concurrency=1)

    await clients[0].reply()
    await clients[2].reply()
    assert [seen.target for seen in worker.seen] == ["/job/0", "/job/2"]


async def test_a_full_queue_refuses_with_429_and_retry_after(rig: Rig) -> None:
    rig.publish(max_queue=2)
    await _hold(rig, 2)

    reply = await rig.get("/e/llm/")

    assert reply.status == 429
    assert int(reply.header("Retry-After") or 0) >= 1
    problem = _problem(reply)
    assert problem["type"] == "/problems/queue-full"
    assert problem["max_queue"] == 2


async def test_a_hold_that_runs_out_says_what_it_waited_for(rig: Rig) -> None:
    rig.publish(hold_timeout_s=0.1, waiting_for="waiting_for_gpu")

    reply = await rig.get("/e/llm/")

    assert reply.status == 504
    problem = _problem(reply)
    assert problem["type"] == "/problems/cold-start-timeout"
    assert problem["reason"] == "waiting_for_gpu"
    assert rig.waiting() == 0


async def test_a_hold_that_runs_out_beside_full_workers_says_so(rig: Rig) -> None:
    worker = await rig.worker(answer=_answer_never)
    rig.publish(worker, concurrency=1, hold_timeout_s=0.1)
    busy = await rig.client()
    busy.send("GET", "/e/llm/")
    await worker.until(lambda: len(worker.seen) == 1)

    reply = await rig.get("/e/llm/")

    assert reply.status == 504
    assert _problem(reply)["type"] == "/problems/no-capacity"


async def test_a_refusal_ends_holds_at_once_with_its_detail(rig: Rig) -> None:
    rig.publish()
    (client,) = await _hold(rig, 1)

    rig.publish(refusal=Refusal(slug="start-failed", detail="It exits with code 3.", retry_after_s=7.2))

    for reply in (await client.reply(), await rig.get("/e/llm/")):
        assert reply.status == 503
        assert reply.header("Retry-After") == "8"
        assert _problem(reply)["detail"] == "It exits with code 3."
        assert _problem(reply)["type"] == "/problems/start-failed"


async def test_deleting_an_endpoint_ends_its_holds(rig: Rig) -> None:
    rig.publish()
    (client,) = await _hold(rig, 1)

    rig.dispatcher.publish(RoutingTable())

    assert (await client.reply()).status == 404


async def test_a_released_slot_goes_to_the_one_who_waited_longest(rig: Rig) -> None:
    release = asyncio.Event()

    async def answer(
        worker: ScriptedWorker, _seen: object, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(worker.seen) == 1:
            await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    worker = await rig.worker(answer=answer)
    rig.publish(worker, concurrency=1)
    first = await rig.client()
    first.send("GET", "/e/llm/first")
    await worker.until(lambda: len(worker.seen) == 1)
    second, third = await _hold(rig, 2, "/e/llm/then/{}")
    release.set()

    replies = [await first.reply(), await second.reply(), await third.reply()]

    assert [seen.target for seen in worker.seen] == ["/first", "/then/0", "/then/1"]
    assert [reply.header("X-Gpud-Cold-Start") for reply in replies] == ["false", "false", "false"]
    assert int(replies[2].header("X-Gpud-Queue-Ms") or -1) >= 0


async def test_requests_go_round_the_workers_in_turn(rig: Rig) -> None:
    workers = [await rig.worker(i) for i in range(3)]
    rig.publish(*workers)

    bodies = [(await rig.get("/e/llm/")).header("X-Gpud-Worker") for _ in range(6)]

    assert bodies == [worker.worker_id for worker in workers] * 2


async def test_a_refused_connection_is_retried_on_another_worker(rig: Rig) -> None:
    dead = RouteWorker(worker_id=WorkerId("wk_0000000000000000"), address="127.0.0.1", port=refusing_port())
    alive = await rig.worker(1)
    rig.publish(dead, alive)

    replies = [await rig.get("/e/llm/x", method="POST", body=b"hello") for _ in range(4)]

    assert [reply.status for reply in replies] == [200] * 4
    assert {seen.body for seen in alive.seen} == {b"hello"}
    assert "unreachable wk_0000000000000000" in rig.watcher.told
    await rig.until(lambda: rig.in_flight() == 0)
    assert rig.dispatcher.worker_in_flight(dead.worker_id) == 0


async def test_a_worker_that_takes_no_connection_in_time_is_passed_over(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT_S", 0.05)
    with socket.socket() as deaf:  # its backlog is full: the next connection is neither taken nor refused
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        filling = [socket.socket() for _ in range(3)]
        for each in filling:
            each.settimeout(0)
            each.connect_ex(deaf.getsockname())
        silent = RouteWorker(
            worker_id=WorkerId("wk_0000000000000000"), address="127.0.0.1", port=deaf.getsockname()[1]
        )
        rig.publish(silent, await rig.worker(1))

        replies = [await rig.get("/e/llm/") for _ in range(2)]

        for each in filling:
            each.close()
    assert [reply.status for reply in replies] == [200] * 2
    assert "unreachable wk_0000000000000000" in rig.watcher.told


async def test_a_request_is_sent_to_three_workers_at_most(rig: Rig) -> None:
    dead = [
        RouteWorker(worker_id=WorkerId(f"wk_000000000000000{i}"), address="127.0.0.1", port=refusing_port())
        for i in range(4)
    ]
    rig.publish(*dead)

    reply = await rig.get("/e/llm/")

    assert reply.status == 502
    assert sum(told.startswith("unreachable") for told in rig.watcher.told) == 3


async def test_a_request_that_reached_no_worker_waits_for_the_next_one(rig: Rig) -> None:
    dead = RouteWorker(worker_id=WorkerId("wk_0000000000000000"), address="127.0.0.1", port=refusing_port())
    rig.publish(dead)
    client = await rig.client()
    client.send("GET", "/e/llm/")
    await rig.until(lambda: rig.waiting() == 1)
    alive = await rig.worker(1)

    rig.publish(alive)

    assert (await client.reply()).status == 200
    await rig.until(lambda: rig.dispatcher.total_in_flight() == 0)
    (exchange,) = rig.dispatcher.take_load(EndpointName("llm")).exchanges
    arrived_s, dispatched_s, ended_s = exchange
    assert arrived_s < dispatched_s <= ended_s, "one request is one exchange, however often it was tried"


async def test_a_client_that_left_while_it_waited_is_an_exchange_without_a_worker(rig: Rig) -> None:
    rig.publish(concurrency=1)
    (client,) = await _hold(rig, 1)
    client.leave()
    exchanges: list[tuple[float, float, float]] = []

    def ended() -> bool:
        exchanges.extend(rig.dispatcher.take_load(EndpointName("llm")).exchanges)
        return bool(exchanges)

    await rig.until(ended)
    ((arrived_s, dispatched_s, ended_s),) = exchanges
    assert dispatched_s < 0 <= arrived_s <= ended_s


async def test_load_is_told_to_the_fleet(rig: Rig) -> None:
    name = EndpointName("llm")
    worker = await rig.worker(answer=_answer_never)
    rig.publish(concurrency=1)
    clients = await _hold(rig, 2)
    load = rig.dispatcher.take_load(name)
    assert (load.waiting, load.in_flight) == (2, 0)
    assert load.oldest_wait_s > 0
    assert "load" in rig.watcher.told

    rig.publish(worker, concurrency=1)
    await worker.until(lambda: len(worker.seen) == 1)
    load = rig.dispatcher.take_load(name)
    assert (load.waiting, load.in_flight, load.peak) == (1, 1, 2)
    assert rig.dispatcher.worker_in_flight(worker.worker_id) == 1

    for client in clients:
        client.leave()
    exchanges: list[tuple[float, float, float]] = []

    def both_ended() -> bool:
        exchanges.extend(rig.dispatcher.take_load(name).exchanges)
        return len(exchanges) == 2

    await rig.until(both_ended)
    assert rig.waiting() + rig.in_flight() == 0
    assert rig.dispatcher.worker_in_flight(worker.worker_id) == 0
    assert all(arrived_s <= ended_s for arrived_s, _, ended_s in exchanges)
    assert rig.dispatcher.take_load(name).exchanges == ()
    assert f"busy {worker.worker_id}" in rig.watcher.told
    assert rig.watcher.told[-2:] == [f"idle {worker.worker_id}", "load"]


async def test_a_stopping_gateway_refuses_who_waits(rig: Rig) -> None:
    rig.publish()
    (client,) = await _hold(rig, 1)

    rig.dispatcher.stop()

    reply = await client.reply()
    assert reply.status == 503
    assert _problem(reply)["type"] == "/problems/unavailable"


def test_a_route_for_tests_is_legal() -> None:
    assert route(name="llm").endpoint == "llm"


def _problem(reply: Reply) -> dict[str, object]:
    assert reply.header("Content-Type") == "application/problem+json"
    assert reply.header("Gpud-Origin") == "gateway"
    problem: dict[str, object] = json.loads(reply.body)
    assert problem["status"] == reply.status
    assert problem["instance"] == reply.header("X-Gpud-Request-Id")
    return problem


async def _never(
    _worker: ScriptedWorker, _seen: object, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
) -> None:
    await reader.read()


_answer_never: Answer = _never


async def test_a_conversation_stays_with_its_worker_while_that_has_room(rig: Rig) -> None:
    workers = [await rig.worker(i) for i in range(4)]
    table = {EndpointName("llm"): route(*workers, concurrency=4)}
    rig.dispatcher.publish(RoutingTable(table))

    async def say(*texts: str) -> str:
        messages = [
            {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)
        ]
        body = json.dumps({"model": "llm", "messages": messages}).encode()
        reply = await rig.get("/openai/v1/chat/completions", method="POST", body=body)
        return reply.header("X-Gpud-Worker") or ""

    for first in ("one", "two", "three"):
        turns = [
            await say(first),
            await say(first, "yes", "go on"),
            await say(first, "yes", "go on", "so", "?"),
        ]
        assert len(set(turns)) == 1
    chosen = {await say(f"conversation {i}") for i in range(40)}
    assert len(chosen) > 1


async def test_a_waiting_stream_sees_how_the_start_goes_and_then_its_events(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by aiohttp's client, which knows nothing of gpud."""
    monkeypatch.setattr(progress, "FIRST_AFTER_S", 0.01)
    rig.publish(progress=True, start_phase="starting", expected_start_s=40.0)

    async def events(
        _worker: ScriptedWorker, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(b"9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n")

    url = f"http://127.0.0.1:{rig.port}/e/llm/v1/chat/completions"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json={"stream": True}) as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert (await answer.content.readline()).startswith(b": gpud starting ")
        rig.publish(await rig.worker(answer=events), progress=True)
        assert (await answer.content.read()).endswith(b"data: a\n\ndata: b\n\n")
