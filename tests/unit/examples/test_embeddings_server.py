"""The demo model's server: right vectors, many callers at once, a clean end."""

import base64
import http.client
import itertools
import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.examples.conftest import EmbeddingsServer

ERROR_MAX = 1e-5


def call(
    server: EmbeddingsServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, raw, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def vectors_of(answer: dict[str, Any]) -> list[list[float]]:
    return [row["embedding"] for row in answer["data"]]


def exchange(server: EmbeddingsServer, sent: bytes) -> bytes:
    """Send raw bytes and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_vectors_and_cosines_are_those_of_torch(
    embeddings_server: EmbeddingsServer, reference: dict[str, Any]
) -> None:
    sentences = reference["sentences"]
    status, answer = call(embeddings_server, "POST", "/v1/embeddings", {"input": sentences, "model": "m"})
    assert status == 200
    vectors = vectors_of(answer)
    for vector, head in zip(vectors, reference["vectors_head"], strict=True):
        assert len(vector) == 384
        assert vector[:8] == pytest.approx(head, abs=ERROR_MAX)
    for i, j in itertools.product(range(len(sentences)), repeat=2):
        cosine = sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
        assert cosine == pytest.approx(reference["cosines"][i][j], abs=ERROR_MAX)
    assert answer["model"] == "m"
    assert [row["index"] for row in answer["data"]] == list(range(len(sentences)))
    assert answer["usage"] == {
        "prompt_tokens": sum(reference["tokens"]),
        "total_tokens": sum(reference["tokens"]),
    }


def test_a_sentence_has_the_same_vector_alone_and_in_a_large_batch(
    embeddings_server: EmbeddingsServer,
) -> None:
    texts = [f"Sentence {number} " + "goes on " * (number % 60) for number in range(80)]
    _, batch = call(embeddings_server, "POST", "/v1/embeddings", {"input": texts})
    for index in (0, 41, 79):
        _, alone = call(embeddings_server, "POST", "/v1/embeddings", {"input": texts[index]})
        assert vectors_of(alone)[0] == pytest.approx(vectors_of(batch)[index], abs=ERROR_MAX)


def test_base64_holds_the_same_floats(embeddings_server: EmbeddingsServer) -> None:
    _, floats = call(embeddings_server, "POST", "/v1/embeddings", {"input": "hello"})
    _, coded = call(
        embeddings_server, "POST", "/v1/embeddings", {"input": "hello", "encoding_format": "base64"}
    )
    raw = base64.b64decode(coded["data"][0]["embedding"])
    assert list(struct.unpack("<384f", raw)) == vectors_of(floats)[0]


def test_health_names_the_parts_of_the_start(embeddings_server: EmbeddingsServer) -> None:
    status, answer = call(embeddings_server, "GET", "/health")
    assert (status, answer["status"]) == (200, "ok")
    parts = {"interpreter", "listen", "weights", "numpy", "model", "warm_up", "http"}
    assert set(answer["boot_ms"]) == parts | {"total"}
    assert answer["boot_ms"]["total"] == pytest.approx(sum(answer["boot_ms"][part] for part in parts), abs=1)


def test_the_only_model_is_listed(embeddings_server: EmbeddingsServer) -> None:
    status, answer = call(embeddings_server, "GET", "/v1/models")
    assert status == 200
    assert [model["id"] for model in answer["data"]] == ["all-MiniLM-L6-v2"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/v1/embeddings", b"{", 400, "not JSON"),
        ("POST", "/v1/embeddings", b"x" * (9 << 20), 413, "longer than"),
        ("GET", "/v1/embeddings", None, 405, "takes POST"),
        ("DELETE", "/health", None, 405, "takes GET"),
        ("POST", "/v1/completions", b"{}", 404, "POST /v1/embeddings"),
    ],
)
def test_a_refusal_has_the_shape_that_openai_clients_read(
    embeddings_server: EmbeddingsServer, method: str, path: str, body: bytes | None, *, status: int, says: str
) -> None:
    got, answer = call(embeddings_server, method, path, body)
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert says in answer["error"]["message"]


def test_one_connection_serves_many_requests(embeddings_server: EmbeddingsServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", embeddings_server.port, timeout=30)
    for number in range(5):
        connection.request("POST", "/v1/embeddings", json.dumps({"input": f"text {number}"}))
        kept = connection.sock
        assert connection.getresponse().read()
        assert connection.sock is kept
    connection.close()


def test_a_chunked_body_and_expect_continue_are_understood(embeddings_server: EmbeddingsServer) -> None:
    body = b'{"input":"hi"}'
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    got = exchange(
        embeddings_server, head + b"Expect: 100-continue\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    )
    assert b"HTTP/1.1 200 OK" in got
    assert json.loads(got.rpartition(b"\r\n\r\n")[2])["usage"]["prompt_tokens"] == 3


def test_head_of_health_has_no_body(embeddings_server: EmbeddingsServer) -> None:
    got = exchange(embeddings_server, b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"\r\n\r\n")


def test_what_is_not_http_gets_an_answer_and_the_server_lives(embeddings_server: EmbeddingsServer) -> None:
    assert b"400 Bad Request" in exchange(embeddings_server, b"\x16\x03\x01 hello\r\n\r\n")
    assert call(embeddings_server, "GET", "/health")[0] == 200


def test_twenty_four_callers_at_once_each_get_their_own_vector(embeddings_server: EmbeddingsServer) -> None:
    texts = [f"Caller number {number} speaks about topic {number * 7}." for number in range(24)]
    _, batch = call(embeddings_server, "POST", "/v1/embeddings", {"input": texts})
    together = threading.Barrier(24)

    def ask(text: str) -> tuple[int, Any]:
        together.wait(timeout=20)
        return call(embeddings_server, "POST", "/v1/embeddings", {"input": text})

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, texts))
    for (status, answer), expected in zip(answers, vectors_of(batch), strict=True):
        assert status == 200
        assert vectors_of(answer)[0] == pytest.approx(expected, abs=ERROR_MAX)


def test_sigterm_lets_a_running_request_end_and_then_the_process(
    own_embeddings_server: EmbeddingsServer,
) -> None:
    server = own_embeddings_server
    body = json.dumps({"input": ["a long text " * 100] * 3}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n"
    )
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")  # from here on the request is running
        began_s = time.monotonic()
        server.process.terminate()
        connection.sendall(body)
        got = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"200 OK" in got
    assert b"connection: close" in got.lower()
    assert server.process.wait(timeout=10) == 0
    assert time.monotonic() - began_s < 6
    idle.close()


def test_a_caller_that_hangs_up_stops_its_computation(embeddings_server: EmbeddingsServer) -> None:
    body = json.dumps({"input": ["a long text " * 100] * 512}).encode()  # about 40 s of work
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", embeddings_server.port), timeout=30) as connection:
        connection.sendall(head + body)
        call(embeddings_server, "GET", "/health")
    began_s = time.monotonic()
    status, _ = call(embeddings_server, "POST", "/v1/embeddings", {"input": "short"})
    assert status == 200
    used = -1
    while used != (used := _cpu_ticks(embeddings_server.process.pid)):  # until half a second costs nothing
        assert time.monotonic() - began_s < 15
        threading.Event().wait(0.5)


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
