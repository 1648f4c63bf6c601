"""Does the worker image do what its knobs say?"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.rig import leftovers
from tests.rig.asking import address_of, ask, wait_for_answer

if TYPE_CHECKING:
    from docker.models.containers import Container

    from tests.rig.fixtures import ContainerStarter

pytestmark = pytest.mark.engine

WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@pytest.fixture
def worker_url(start_container: ContainerStarter, worker_image: str) -> str:
    url = f"http://{address_of(start_container(worker_image))}:8000"
    wait_for_answer(f"{url}/health")
    return url


def connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def test_echo_tells_what_arrived(worker_url: str) -> None:
    body = os.urandom(200_000)
    answer = ask(f"{worker_url}/echo/deep?a=1", method="PUT", body=body, headers={"X-Asked": "yes"})
    told = answer.json()
    assert (told["method"], told["path"], told["query"]) == ("PUT", "/echo/deep", {"a": ["1"]})
    assert ["X-Asked", "yes"] in told["headers"]
    assert told["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_chunked_bodies_and_several_requests_on_one_connection_are_understood(worker_url: str) -> None:
    host, _, port = worker_url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    pieces = [b"one", b"two" * 1000, b"three"]
    for _ in range(2):
        connection.request("POST", "/upload", iter(pieces), encode_chunked=True)
        told = json.loads(connection.getresponse().read())
        assert told == {"bytes": 3008, "sha256": hashlib.sha256(b"".join(pieces)).hexdigest()}
    connection.request("GET", "/bytes/1000000")
    assert len(connection.getresponse().read()) == 1_000_000
    connection.request("POST", "/status/201", b"left unread by the route")
    assert connection.getresponse().read()
    connection.request("GET", "/stats")
    assert json.loads(connection.getresponse().read())["connections"] == 1
    connection.close()


def test_a_stream_arrives_event_by_event(worker_url: str) -> None:
    with connect(worker_url) as client:
        client.sendall(b"GET /stream/3/100 HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n")
        arrivals_s, received = [], b""
        while piece := client.recv(65536):
            arrivals_s.append(time.monotonic())
            received += piece
    assert received.count(b'"index"') == 3
    assert arrivals_s[-1] - arrivals_s[0] > 0.2


def test_a_request_whose_client_leaves_is_cancelled(worker_url: str) -> None:
    with connect(worker_url) as client:
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: w\r\n\r\n")
        assert leftovers.wait_until(lambda: ask(f"{worker_url}/stats").json()["in_flight"] == 1, timeout_s=5)
    assert leftovers.wait_until(lambda: ask(f"{worker_url}/stats").json()["cancelled"] == 1, timeout_s=5)
    assert ask(f"{worker_url}/stats").json()["in_flight"] == 0


def test_a_websocket_echoes_messages_and_answers_pings(worker_url: str) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    with connect(worker_url) as client, client.makefile("rb") as stream:
        client.sendall(
            f"GET /ws HTTP/1.1\r\nHost: w\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b"".join(iter(stream.readline, b"\r\n"))
        expected = hashlib.sha1((key + WEBSOCKET_GUID).encode()).digest()  # noqa: S324 -- RFC 6455 says so.
        assert head.startswith(b"HTTP/1.1 101 ")
        assert base64.b64encode(expected) in head
        mask = b"\1\2\3\4"
        for opcode, answer_opcode in ((1, 1), (9, 10)):
            masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(b"hello"))
            client.sendall(bytes([0x80 | opcode, 0x80 | 5]) + mask + masked)
            assert stream.read(7) == bytes([0x80 | answer_opcode, 5]) + b"hello"
        client.sendall(bytes([0x88, 0x80]) + mask)
        assert stream.read() == bytes([0x88, 0])


def test_delays_are_kept_and_health_is_not_delayed(
    start_container: ContainerStarter, worker_image: str
) -> None:
    container = start_container(worker_image, environment={"RESPONSE_DELAY_S": "0.3"})
    url = f"http://{address_of(container)}:8000"
    wait_for_answer(f"{url}/health")
    started_s = time.monotonic()
    ask(f"{url}/health")
    asked_s = time.monotonic()
    ask(f"{url}/delay/0.2", headers={"X-Delay-S": "0.1"})
    assert time.monotonic() - asked_s > 0.6
    assert asked_s - started_s < 0.3


def test_health_turns_when_the_knobs_are_turned(worker_url: str) -> None:
    ask(f"{worker_url}/control", method="POST", body=json.dumps({"refuse_health": 1}))
    assert ask(f"{worker_url}/health").status == 503
    ask(
        f"{worker_url}/control", method="POST", body=json.dumps({"refuse_health": False, "hang_health": True})
    )
    with pytest.raises(TimeoutError):
        ask(f"{worker_url}/health", timeout_s=0.3)
    ask(f"{worker_url}/control", method="POST", body=json.dumps({"hang_health": 0}))
    assert ask(f"{worker_url}/health").status == 200


def test_it_boots_late_and_becomes_healthy_later_still(
    start_container: ContainerStarter, worker_image: str
) -> None:
    container = start_container(worker_image, environment={"BOOT_DELAY_S": "0.4", "HEALTH_AFTER_S": "1.2"})
    url = f"http://{address_of(container)}:8000/health"
    with pytest.raises(ConnectionRefusedError):
        ask(url)
    wait_for_answer(url, status=503)
    wait_for_answer(url, status=200)


def test_it_crashes_at_the_nth_request_and_with_that_code(
    start_container: ContainerStarter, worker_image: str
) -> None:
    container = start_container(worker_image, environment={"CRASH_ON_REQUEST": "3"})
    url = f"http://{address_of(container)}:8000"
    wait_for_answer(f"{url}/health")
    assert [ask(f"{url}/echo").status for _ in range(2)] == [200, 200]
    with pytest.raises(ConnectionError):
        ask(f"{url}/echo")
    assert container.wait(timeout=10)["StatusCode"] == 3


def test_it_exits_at_start_when_told_to(start_container: ContainerStarter, worker_image: str) -> None:
    container = start_container(worker_image, environment={"EXIT_AT_START": "7"})
    assert container.wait(timeout=10)["StatusCode"] == 7
    assert b"exiting at start with 7" in container.logs()


def test_it_runs_without_listening_when_told_to(start_container: ContainerStarter, worker_image: str) -> None:
    container = start_container(worker_image, environment={"NEVER_LISTEN": "1"})
    url = f"http://{address_of(container)}:8000/health"
    with pytest.raises(TimeoutError):
        wait_for_answer(url, timeout_s=1.0)
    container.reload()
    assert container.status == "running"


def test_sigterm_lets_a_request_in_flight_finish(
    start_container: ContainerStarter, worker_image: str
) -> None:
    container = start_container(worker_image)
    url = f"http://{address_of(container)}:8000"
    wait_for_answer(f"{url}/health")
    with connect(url) as client:
        client.sendall(b"GET /delay/0.5 HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n")
        assert leftovers.wait_until(lambda: ask(f"{url}/stats").json()["in_flight"] == 1, timeout_s=5)
        container.kill("SIGTERM")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert container.wait(timeout=10)["StatusCode"] == 0


def test_it_ignores_sigterm_when_told_to(start_container: ContainerStarter, worker_image: str) -> None:
    container = start_container(worker_image, environment={"IGNORE_SIGTERM": "1"})
    url = f"http://{address_of(container)}:8000"
    wait_for_answer(f"{url}/health")
    container.kill("SIGTERM")
    assert leftovers.wait_until(lambda: b"SIGTERM ignored" in container.logs(), timeout_s=5)
    assert ask(f"{url}/health").status == 200


def test_it_holds_memory_and_floods_its_log(start_container: ContainerStarter, worker_image: str) -> None:
    knobs = {"ALLOCATE_MIB": "64", "LOG_FLOOD_LINES_PER_S": "2000"}
    container: Container = start_container(worker_image, environment=knobs)
    wait_for_answer(f"http://{address_of(container)}:8000/health")
    usage = container.stats(stream=False)["memory_stats"]["usage"]
    assert usage > 64 * 1024 * 1024
    assert leftovers.wait_until(lambda: container.logs().count(b"flood line") > 1000, timeout_s=10)


def test_the_static_server_tells_when_it_began_to_listen(
    start_container: ContainerStarter, static_image: str
) -> None:
    before_ns = time.monotonic_ns()
    container = start_container(static_image, environment={"PORT": "9000"})
    url = f"http://{address_of(container)}:9000"
    wait_for_answer(f"{url}/health")
    headers = ask(f"{url}/").headers
    assert before_ns < int(headers["x-main-ns"]) < int(headers["x-listen-ns"]) < time.monotonic_ns()
    container.stop(timeout=5)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
