"""The client: what it says when the daemon is away, refuses, or speaks nonsense."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.cli import exits
from gpud.cli.client import Address, Client, parse_url, quoted
from gpud.cli.exits import BadUsage, CommandFailed
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, Reply, Seen, json_reply, problem, serve_tcp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.cli.conftest import Gpud


def test_without_a_daemon_the_message_says_how_to_start_one(gpud: Gpud, tmp_path: Path) -> None:
    ran = gpud("endpoint", "ls", "--socket", str(tmp_path / "api.sock"))
    assert ran.code == exits.UNREACHABLE
    assert f"gpud is not running: there is no socket {tmp_path}/api.sock." in ran.err
    assert "gpud serve" in ran.err
    assert "systemctl start gpud" in ran.err


def test_a_socket_left_behind_is_told_apart_from_none(gpud: Gpud, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    ran = gpud("status", "--socket", str(path))
    assert ran.code == exits.UNREACHABLE
    assert "an earlier daemon left behind" in ran.err


def test_a_socket_of_another_user_is_not_allowed(gpud: Gpud, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def connect(self, _address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refusing)
    ran = gpud("status", "--socket", "/run/gpud/api.sock")
    assert ran.code == exits.NOT_ALLOWED
    assert "You may not use /run/gpud/api.sock" in ran.err
    assert "sudo" in ran.err


def test_a_path_too_long_for_a_socket_is_told(gpud: Gpud) -> None:
    ran = gpud("status", "--socket", "/" + "x" * 200)
    assert ran.code == exits.UNREACHABLE
    assert "cannot be used" in ran.err


def test_an_unreachable_url_is_told_with_its_address(gpud: Gpud) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ran = gpud("status", "--url", f"http://127.0.0.1:{port}")
    assert ran.code == exits.UNREACHABLE
    assert f"127.0.0.1:{port}" in ran.err


def test_over_tcp_the_key_goes_along_and_over_the_unix_socket_it_does_not(
    gpud: Gpud, daemon: CannedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.lists("/v1/endpoints")
    monkeypatch.setenv("GPUD_KEY", "gpud_abc_def")
    assert gpud("endpoint", "ls").code == 0
    server, url = serve_tcp(daemon)
    assert gpud("endpoint", "ls", "--url", url).code == 0
    monkeypatch.delenv("GPUD_SOCKET")
    monkeypatch.setenv("GPUD_URL", url)
    assert gpud("endpoint", "ls").code == 0
    server.shutdown()
    server.server_close()
    assert [seen.headers.get("authorization") for seen in daemon.seen] == [
        None,
        "Bearer gpud_abc_def",
        "Bearer gpud_abc_def",
    ]


@pytest.mark.parametrize(
    ("key", "advice"),
    [("", "Put a key into GPUD_KEY"), ("gpud_abc_def", "GPUD_KEY holds a key that is not valid")],
)
def test_a_refused_key_says_what_to_do(
    key: str, advice: str, gpud: Gpud, monkeypatch: pytest.MonkeyPatch
) -> None:
    canned = CannedDaemon()
    canned.on("GET", "/v1/endpoints", problem(401, "The API key is not known."))
    server, url = serve_tcp(canned)
    monkeypatch.setenv("GPUD_KEY", key)
    ran = gpud("endpoint", "ls", "--url", url)
    server.shutdown()
    server.server_close()
    assert ran.code == exits.NOT_ALLOWED
    assert "The API key is not known." in ran.err
    assert advice in ran.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, exits.BAD_USAGE),
        (401, exits.NOT_ALLOWED),
        (403, exits.NOT_ALLOWED),
        (404, exits.NOT_FOUND),
        (409, exits.FAILED),
        (422, exits.BAD_USAGE),
        (503, exits.FAILED),
        (504, exits.TIMED_OUT),
        (507, exits.FAILED),
    ],
)
def test_a_refusal_becomes_its_exit_code_and_one_message(
    status: int, code: int, gpud: Gpud, daemon: CannedDaemon
) -> None:
    daemon.on("GET", "/v1/endpoints/llm", problem(status, "This is what happened. Do that."))
    ran = gpud("endpoint", "get", "llm")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("gpud: This is what happened. Do that.\n")


def test_a_refusal_that_is_no_problem_document_is_still_told(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints", Reply(status=502, body=b"<h1>Bad gateway</h1>"))
    ran = gpud("endpoint", "ls")
    assert ran.code == exits.FAILED
    assert "<h1>Bad gateway</h1>" in ran.err


def test_a_list_of_several_pages_is_read_whole(gpud: Gpud, daemon: CannedDaemon) -> None:
    def page(seen: Seen) -> Reply:
        number = int(seen.query.get("cursor", "0"))
        following = str(number + 1) if number < 2 else None
        return json_reply({"items": [documents.endpoint(f"e{number}")], "next": following})

    daemon.on("GET", "/v1/endpoints", page)
    rows = json.loads(gpud("endpoint", "ls", "--json").out)
    assert [row["name"] for row in rows["items"]] == ["e0", "e1", "e2"]
    assert rows["next"] is None


def test_one_connection_serves_several_calls_and_a_closed_one_is_replaced(tmp_path: Path) -> None:
    accepted: list[int] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    def talk(listening: socket.socket) -> None:
        for requests in (2, 1):
            connection, _ = listening.accept()
            accepted.append(requests)
            with connection, connection.makefile("rb") as reader:
                for _ in range(requests):
                    while reader.readline().strip():
                        pass
                    connection.sendall(answer)

    with _listening(tmp_path, talk) as path:
        client = Client(path)
        for _ in range(3):
            assert client.get("/v1/system") == {}
        client.close()
    assert accepted == [2, 1]


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class _listening:  # noqa: N801 used as a function
    def __init__(self, tmp_path: Path, talk: Callable[[socket.socket], None]) -> None:
        self._path = str(tmp_path / "raw.sock")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self._path)
        self._socket.listen(8)
        self._thread = threading.Thread(target=talk, args=(self._socket,), daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return self._path

    def __exit__(self, *_error: object) -> None:
        self._thread.join(5)
        self._socket.close()


def _says(answer: bytes) -> Callable[[socket.socket], None]:
    def talk(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as reader:
            while reader.readline().strip():
                pass
            connection.sendall(answer)

    return talk


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (b"", exits.UNREACHABLE, "closed the connection before it answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", exits.UNREACHABLE, "closed the connection before it answered"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", exits.UNREACHABLE, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", exits.FAILED, "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", exits.FAILED, "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", exits.FAILED, "incomplete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ok>", exits.UNREACHABLE, "is not JSON"),
    ],
)
def test_a_broken_answer_is_told_for_what_it_is(answer: bytes, code: int, told: str, tmp_path: Path) -> None:
    with (
        _listening(tmp_path, _says(answer)) as path,
        closing(Client(path)) as client,
        pytest.raises(CommandFailed) as caught,
    ):
        client.get("/v1/system")
    assert caught.value.code == code
    assert told in caught.value.what


@pytest.mark.parametrize(
    "answer",
    [
        _CHUNKED + b'3;x=y\r\n{"a\r\n4\r\n":1}\r\n0\r\nTrailer: x\r\n\r\n',
        b'HTTP/1.0 200 OK\r\n\r\n{"a":1}',
        b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{"a":1}',
    ],
)
def test_every_framing_of_an_answer_is_read(answer: bytes, tmp_path: Path) -> None:
    with _listening(tmp_path, _says(answer)) as path, closing(Client(path)) as client:
        assert client.get("/v1/system") == {"a": 1}


def test_a_silent_daemon_is_given_up_on(tmp_path: Path) -> None:
    released = threading.Event()

    def silent(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            released.wait(5)

    with _listening(tmp_path, silent) as path:
        with closing(Client(path, timeout_s=0.05)) as client, pytest.raises(CommandFailed) as caught:
            client.get("/v1/system")
        released.set()
    assert caught.value.code == exits.TIMED_OUT


def test_a_post_carries_a_key_that_makes_its_repetition_safe(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v1/endpoints/llm/retry", documents.endpoint())
    gpud("endpoint", "retry", "llm")
    gpud("endpoint", "retry", "llm")
    first, second = (seen.headers["idempotency-key"] for seen in daemon.asked("POST"))
    assert first != second
    assert len(first) == 32


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8700", Address("127.0.0.1", 8700, tls=False, prefix="")),
        ("http://[::1]:8700/", Address("::1", 8700, tls=False, prefix="")),
        ("http://[::1]", Address("::1", 80, tls=False, prefix="")),
        ("https://gpu.example.org/box/1/", Address("gpu.example.org", 443, tls=True, prefix="/box/1")),
    ],
)
def test_urls_are_read(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "ftp://x", "http://", "http://x:y", "http://me@x", ""])
def test_what_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(BadUsage):
        parse_url(url)


def test_socket_and_url_exclude_each_other(gpud: Gpud) -> None:
    assert gpud("status", "--socket", "/a", "--url", "http://b").code == exits.BAD_USAGE


@given(st.text())
def test_quoting_is_the_standard_one(text: str) -> None:
    encodable = text.encode("utf-8", "replace").decode()
    assert quoted(encodable) == quote(encodable, safe="")
