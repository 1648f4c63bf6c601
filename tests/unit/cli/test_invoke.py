"""`gpud invoke`: requests as they were meant, answers as they come, and what each exit code says."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from gpud.cli import exits
from tests.unit.cli.canned import CannedDaemon, Reply, problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.cli.conftest import Gpud


def test_a_plain_invoke_gets_the_path_and_prints_the_body(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/e/llm/v1/models", Reply(body=b'{"data": []}'))
    ran = gpud("invoke", "llm", "/v1/models?limit=3")
    assert (ran.code, ran.out, ran.err) == (0, '{"data": []}', "")
    assert daemon.seen[0].query == {"limit": "3"}


def test_data_is_posted_as_json_unless_a_header_says_otherwise(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/e/llm/", Reply(body=b"ok"))
    daemon.on("PUT", "/e/llm/", Reply(body=b"ok"))
    assert gpud("invoke", "llm", "-d", '{"x": 1}').code == 0
    assert (
        gpud("invoke", "llm", "-X", "put", "-d", "x", "-H", "content-type: text/plain", "-H", "X-A: 1").code
        == 0
    )
    post, put = daemon.seen
    assert (post.headers["content-type"], post.body) == ("application/json", b'{"x": 1}')
    assert (put.headers["content-type"], put.headers["x-a"], put.body) == ("text/plain", "1", b"x")


def test_data_may_come_from_a_file_or_from_stdin(
    gpud: Gpud, daemon: CannedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = bytes(range(256)) * 2000
    (tmp_path / "body").write_bytes(big)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin")))
    daemon.on("POST", "/e/llm/", Reply())
    assert gpud("invoke", "llm", "-d", f"@{tmp_path}/body").code == 0
    assert gpud("invoke", "llm", "-d", "-").code == 0
    assert [seen.body for seen in daemon.seen] == [big, b"from stdin"]
    assert gpud("invoke", "llm", "-d", "@/nowhere").code == exits.BAD_USAGE


def test_an_answer_is_printed_while_it_still_comes(daemon: CannedDaemon) -> None:
    read = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first\n"
        assert read.wait(10), "the first piece was kept back"
        yield b"second\n"

    daemon.on("GET", "/e/llm/", Reply(body=pieces()))
    command = [sys.executable, "-m", "gpud", "invoke", "llm"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        read.set()
        assert process.stdout.read() == b"second\n"
    assert process.returncode == 0


def test_a_worker_s_own_problem_document_is_the_worker_s(gpud: Gpud, daemon: CannedDaemon) -> None:
    own = problem(422, "The model says no.")
    own.headers["X-Gpud-Worker"] = "wk_a"
    daemon.on("GET", "/e/llm/", own)
    ran = gpud("invoke", "llm")
    assert ran.code == exits.FAILED
    assert "The model says no." in ran.out
    assert ran.err.startswith("gpud: the worker answered 422")


def test_a_worker_s_own_error_goes_to_stdout_and_fails(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/e/llm/", Reply(status=404, body=b'{"error": "no such model"}'))
    ran = gpud("invoke", "llm")
    assert (ran.code, ran.out) == (exits.FAILED, '{"error": "no such model"}')
    assert ran.err == "gpud: the worker answered 404 Not Found\n"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, exits.NOT_ALLOWED),
        (404, exits.NOT_FOUND),
        (429, exits.FAILED),
        (502, exits.FAILED),
        (503, exits.FAILED),
        (504, exits.TIMED_OUT),
    ],
)
def test_a_refusal_of_gpud_itself_is_told_on_stderr(
    status: int, code: int, gpud: Gpud, daemon: CannedDaemon
) -> None:
    daemon.on("GET", "/e/llm/", problem(status, "Why it cannot be.", origin="gateway"))
    ran = gpud("invoke", "llm")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("gpud: Why it cannot be.\n")


def test_the_head_is_printed_on_request(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/e/llm/", Reply(body=b"ok", headers={"X-Gpud-Worker": "wk_a"}))
    out = gpud("invoke", "-i", "llm").out
    assert out.startswith("HTTP/1.1 200 OK")
    assert "x-gpud-worker: wk_a" in out
    assert out.endswith("\r\n\r\nok")


def test_a_header_that_is_none_is_bad_usage(gpud: Gpud, daemon: CannedDaemon) -> None:
    assert gpud("invoke", "llm", "-H", "nonsense").code == exits.BAD_USAGE
    assert gpud("invoke", "llm", "-H", "A: b\r\nC: d").code == exits.BAD_USAGE
    assert daemon.seen == []


def test_a_silence_longer_than_the_timeout_ends_with_code_6(gpud: Gpud, daemon: CannedDaemon) -> None:
    released = threading.Event()

    def late(_seen: object) -> Reply:
        released.wait(10)
        return Reply()

    daemon.on("GET", "/e/llm/", late)
    ran = gpud("invoke", "llm", "--timeout", "0.2s")
    released.set()
    assert ran.code == exits.TIMED_OUT
