from __future__ import annotations

import asyncio
import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.contract.gateway.malformed import KEY, MALFORMED

_STATUS = re.compile(rb"HTTP/1\.1 [1-5][0-9]{2} ")

if TYPE_CHECKING:
    from tests.contract.gateway.rig import RawClient, Rig, ScriptedWorker


def _has_lost(worker: ScriptedWorker, count: int) -> bool:
    return worker.gone == count


def test_the_corpus_is_large() -> None:
    assert len(MALFORMED) >= 200


@pytest.mark.timeout(120)
@pytest.mark.parametrize("splits", [1 << 20, 3], ids=["whole", "in pieces of three bytes"])
async def test_every_malformed_request_is_refused_and_its_connection_closed(rig: Rig, splits: int) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    wrong: list[str] = []
    for name, stream in MALFORMED.items():
        if splits < len(stream) and len(stream) > 4000:
            continue  # long ones are cut at every place by the parsers' own tests
        client = await rig.client()
        for at in range(0, len(stream), splits):
            client.writer.write(stream[at : at + splits])
            if splits < len(stream):
                await asyncio.sleep(0)
        received, closed = await _all_received(client)
        status = received[9:12]
        if not closed or status not in (b"400", b"431") or len(_STATUS.findall(received)) != 1:
            wrong.append(f"{name}: {received[:60]!r}")
        client.leave()
        if any(seen.target == "/smuggled" for seen in worker.seen):
            wrong.append(f"{name}: smuggled")
            worker.seen.clear()
    assert wrong == []


async def _all_received(client: RawClient) -> tuple[bytes, bool]:
    received = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while data := await client.reader.read(65536):
                received += data
            return received, True
    return received, False


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        (b"Content-Length: 3\r\n", b"abc", b"abc"),
        (b"content-LENGTH:3\r\n", b"abc", b"abc"),
        (b"Content-Length: \t3 \t\r\n", b"abc", b"abc"),
        (b"Content-Length: 003\r\n", b"abc", b"abc"),
        (b"Transfer-Encoding: Chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b'3;a="b;c"\r\nabc\r\n0;x\r\n\r\n', b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n02\r\nbc\r\n000\r\nX-T: 1\r\n\r\n", b"abc"),
        (b"X: \xff\xfe\r\nY:\r\nContent-Length: 0\r\n", b"", b""),
    ],
)
async def test_unusual_but_legal_requests_pass_with_their_bodies(
    rig: Rig, fields: bytes, body: bytes, expected: bytes
) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    client = await rig.client()
    request = b"POST /e/llm/x HTTP/1.1\r\nHost: gpud.test\r\n" + KEY + fields + b"\r\n" + body

    client.writer.write(request + request)

    assert [(await client.reply()).status, (await client.reply()).status] == [200, 200]
    assert [seen.body for seen in worker.seen] == [expected] * 2


async def test_trailers_reach_the_worker_as_they_were_sent(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    client = await rig.client()
    body = b"5\r\nhello\r\n0\r\nX-Checksum: abc\r\nX-Other: d\r\n\r\n"
    client.send("POST", "/e/llm/", headers=("Transfer-Encoding: chunked", "Trailer: X-Checksum"))
    client.writer.write(body)

    assert (await client.reply()).status == 200
    assert worker.seen[0].raw_body == body
    assert worker.seen[0].header("Trailer") == "X-Checksum"


async def test_fields_meant_for_one_hop_stop_there(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)

    await rig.get(
        "/e/llm/",
        headers=(
            "Connection: keep-alive, X-Mine",
            "X-Mine: 1",
            "Keep-Alive: timeout=5",
            "TE: trailers",
            "Proxy-Authorization: secret",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            "X-Yours: 2",
        ),
    )

    seen = worker.seen[0]
    for name in (
        "X-Mine",
        "Keep-Alive",
        "TE",
        "Proxy-Authorization",
        "Upgrade",
        "HTTP2-Settings",
        "Connection",
    ):
        assert seen.header(name) is None, name
    assert seen.header("X-Yours") == "2"
    assert seen.header("Via") == "1.1 gpud"
    assert seen.header("X-Forwarded-For") == "127.0.0.1"
    assert seen.header("X-Forwarded-Proto") == "http"
    assert seen.header("X-Forwarded-Host") == "gpud.test"


async def test_a_front_ends_forwarding_fields_are_kept_and_extended(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)

    await rig.get("/e/llm/", headers=("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"))

    assert worker.seen[0].header("X-Forwarded-For") == "203.0.113.9, 127.0.0.1"
    assert worker.seen[0].header("X-Forwarded-Proto") == "https"


async def test_absolute_targets_name_the_host_themselves(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)

    reply = await rig.get("http://other.test:81/e/llm/a?b=c")

    assert reply.status == 200
    assert worker.seen[0].target == "/a?b=c"
    assert worker.seen[0].header("Host") == "other.test:81"


async def test_a_request_that_expects_100_continue_is_told_to_go_on(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    client = await rig.client()
    client.send("POST", "/e/llm/", headers=("Expect: 100-continue", "Content-Length: 5"))

    assert (await client.head()).status == 100
    client.writer.write(b"hello")

    assert (await client.reply()).status == 200
    assert worker.seen[0].body == b"hello"
    assert worker.seen[0].header("Expect") is None


async def test_a_refused_request_that_expects_100_continue_gets_its_refusal_instead(rig: Rig) -> None:
    rig.publish()
    client = await rig.client()
    client.send("POST", "/e/llm/", token=None, headers=("Expect: 100-continue", "Content-Length: 5"))

    assert (await client.reply()).status == 401
    assert await client.closed() == b""


async def test_a_small_body_of_a_refused_request_does_not_end_the_connection(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    client = await rig.client()
    client.send("POST", "/e/llm/", token=None, headers=("Content-Length: 5",))
    assert (await client.reply()).status == 401
    client.writer.write(b"hello")

    client.send("GET", "/e/llm/")

    assert (await client.reply()).status == 200


async def test_pipelined_requests_are_answered_in_their_order(rig: Rig) -> None:
    first, second = await rig.worker(1), await rig.worker(2)
    rig.publish(first, second)
    client = await rig.client()
    for i in range(20):
        client.send("POST", f"/e/llm/{i}", body=b"x" * i)
        client.send("POST", "/v1/echo", body=b"%d" % i)

    bodies = [(await client.reply()).body for _ in range(40)]

    assert [body.rpartition(b"/")[2] for body in bodies[::2]] == [b"%d" % i for i in range(20)]
    assert bodies[1::2] == [b"%d" % i for i in range(20)]


async def test_an_http_1_0_client_gets_a_plain_body_and_a_close(rig: Rig) -> None:
    async def answer(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        )

    rig.publish(await rig.worker(answer=answer), public=True)
    client = await rig.client()
    client.writer.write(b"GET /e/llm/ HTTP/1.0\r\n\r\n")

    received = await client.closed()

    head, _, body = received.partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert b"Transfer-Encoding" not in head


async def test_an_http_1_0_client_may_keep_its_connection(rig: Rig) -> None:
    rig.publish(await rig.worker(), public=True)
    client = await rig.client()
    for _ in range(2):
        client.writer.write(b"GET /e/llm/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = await client.reply()
        assert reply.header("Connection") == "keep-alive"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"garbage\r\n\r\n",
        b"\n\n\n\n",
    ],
)
async def test_a_workers_malformed_answer_is_a_502_and_is_not_passed_on(rig: Rig, answer: bytes) -> None:
    async def broken(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    rig.publish(await rig.worker(answer=broken))

    reply = await rig.get("/e/llm/")

    assert reply.status == 502
    assert reply.header("Set-Cookie") is None


async def test_bytes_after_an_answer_never_reach_the_next_client(rig: Rig) -> None:
    async def doubled(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        writer.write(ok + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    worker = await rig.worker(answer=doubled)
    rig.publish(worker)
    client = await rig.client()
    for _ in range(3):
        client.send("GET", "/e/llm/")
        assert (await client.reply()).body == b"ok"
    assert worker.connections == 3


async def test_a_worker_cannot_claim_to_be_the_gateway(rig: Rig) -> None:
    async def lying(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        lies = b"X-Gpud-Worker: wk_other\r\nGpud-Origin: gateway\r\nX-Gpud-Cold-Start: true\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + lies + b"\r\n")

    worker = await rig.worker(answer=lying)
    rig.publish(worker)

    reply = await rig.get("/e/llm/")

    assert [value for name, value in reply.headers if name == "X-Gpud-Worker"] == [worker.worker_id]
    assert reply.header("Gpud-Origin") is None
    assert reply.header("X-Gpud-Cold-Start") == "false"


async def test_early_hints_pass_and_100_continue_does_not(rig: Rig) -> None:
    async def hinting(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    rig.publish(await rig.worker(answer=hinting))
    client = await rig.client()
    client.send("GET", "/e/llm/")

    hint = await client.head()
    assert (hint.status, hint.header("Link")) == (103, "</a>")
    assert (await client.reply()).body == b"ok"


async def test_an_answer_that_ends_with_its_connection_ends_the_clients_too(rig: Rig) -> None:
    async def endless(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        await writer.drain()
        writer.close()

    rig.publish(await rig.worker(answer=endless))

    reply = await rig.get("/e/llm/")

    assert reply.body == b"until the end"
    assert reply.header("Connection") == "close"


async def test_an_answer_before_the_body_has_ended_reaches_the_client(rig: Rig) -> None:
    async def early(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    worker = await rig.worker(answer=early, read_body=False)
    rig.publish(worker)
    client = await rig.client()
    client.send("POST", "/e/llm/", headers=("Content-Length: 10000000",))
    client.writer.write(b"x" * 100_000)

    reply = await client.reply()

    assert (reply.status, reply.body) == (403, b"no")
    assert await client.closed() == b""
    await rig.until(lambda: rig.in_flight() == 0)


async def test_a_pooled_connection_the_worker_has_closed_is_not_used(rig: Rig) -> None:
    async def once(_worker: object, _seen: object, _in: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    worker = await rig.worker(answer=once)
    rig.publish(worker)
    for i in range(5):
        assert (await rig.get("/e/llm/", method="POST", body=b"x")).status == 200
        await worker.until(partial(_has_lost, worker, i + 1))
    assert worker.connections == 5


async def test_connections_to_a_worker_are_used_again(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    for _ in range(10):
        await rig.get("/e/llm/")
    assert worker.connections == 1
