"""The worker SDK as its callers see it, on this Python and on the oldest one found here."""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SDK = Path(__file__).parents[3] / "gpud/sdk/gpud_worker.py"
HANDLERS = Path(__file__).with_name("handlers.py")
LIMIT_S = 20.0


def _pythons() -> dict[str, str]:
    """This Python, and the oldest that the SDK is for, where there is one."""
    here = [*map(str, Path.home().glob(".pyenv/versions/3.8.*/bin/python")), shutil.which("python3.8")]
    older = [path for path in here if path and subprocess.run([path, "-c", ""], check=False).returncode == 0]
    return {"this": sys.executable} | ({"3.8": older[0]} if older else {})


PYTHONS = _pythons()


class Worker:
    """A worker process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = int(self.says())
        until_s = time.monotonic() + LIMIT_S
        while time.monotonic() < until_s:
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except ConnectionError:
                time.sleep(0.01)
        raise AssertionError("it does not answer")

    def says(self) -> str:
        """The next line it prints; the process is killed when none comes."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(LIMIT_S, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline().strip()
        watchdog.cancel()
        return line

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        connection = self.connect()
        try:
            spelled = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Content-Type": "application/json"} | spelled)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return response.status, (json.loads(content) if content else None), response.headers

    def run(self, value: object, **headers: str) -> tuple[int, Any, http.client.HTTPMessage]:
        """Post a job; again while one that was just cancelled has not ended yet."""
        while True:
            answer = self.ask("POST", "/run", json.dumps(value).encode(), **headers)
            if answer[2]["Retry-After"] != "1":
                return answer
            time.sleep(0.01)

    def hang_up_on(self, value: object, *, after: str, **headers: str) -> None:
        """Post a job, wait until it says something, and close the connection."""
        connection = self.connect()
        spelled = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Content-Type": "application/json"} | spelled
        connection.request("POST", "/run", json.dumps(value).encode(), sent)
        if after:
            assert self.says() == after
        else:
            response = connection.getresponse()
            assert response.fp.readline()
            response.close()
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextmanager
def a_worker(
    handler: str, *, python: str = "this", concurrency: int = 2, status_path: str = ""
) -> Iterator[Worker]:
    command = [PYTHONS[python], str(HANDLERS), str(SDK.parent), handler, str(concurrency), status_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


@pytest.fixture(scope="module", params=PYTHONS)
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    with a_worker("plain", python=request.param) as worker:
        yield worker


def test_a_handler_gets_its_input_and_what_gpud_says_of_the_job(worker: Worker) -> None:
    status, answer, headers = worker.run(
        {"prompt": "ä"},
        X_Gpud_Job_Id="job_1",
        X_Gpud_Attempt="2",
        X_Gpud_Delivery="5",
        X_Gpud_Deadline="1763730000000",
    )
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert answer == {
        "echo": {"prompt": "ä"},
        "id": "job_1",
        "attempt": 2,
        "delivery": 5,
        "by": 1763730000000,
    }


def test_of_a_job_the_handler_gets_its_input(worker: Worker) -> None:
    assert worker.run({"input": {"a": 1}, "policy": {}}, X_Gpud_Job_Id="job_1")[1]["echo"] == {"a": 1}
    assert worker.run({"input": {"a": 1}})[1]["echo"] == {"input": {"a": 1}}


@pytest.mark.parametrize("value", [None, 0, "", [], {}, [1, {"a": None}]])
def test_every_json_value_is_an_input(worker: Worker, value: object) -> None:
    assert worker.run(value)[1]["echo"] == value


def test_a_body_of_another_type_comes_as_bytes(worker: Worker) -> None:
    assert worker.run("one that waits for room")[0] == 200
    status, answer, _ = worker.ask("POST", "/run", b"\x00" * 3_000_000, Content_Type="image/png")
    assert (status, answer) == (200, 3_000_000)


def test_what_a_handler_raises_is_told(worker: Worker) -> None:
    status, answer, headers = worker.run("raise")
    assert status == 500
    assert answer["error"]["error_type"] == "KeyError"
    assert "missing thing" in answer["error"]["error_message"]
    assert "handlers.py" in answer["error"]["error_traceback"]
    assert "X-Gpud-Retry" not in headers


def test_a_handler_says_that_trying_again_is_of_no_use_or_when_it_is(worker: Worker) -> None:
    status, answer, headers = worker.run("never again")
    assert (status, headers["X-Gpud-Retry"]) == (422, "no")
    assert answer["error"]["error_message"] == "the prompt is empty"
    status, _, headers = worker.run("later")
    assert (status, headers["Retry-After"]) == (503, "7")


def test_a_result_that_is_no_json_fails_for_good(worker: Worker) -> None:
    status, answer, headers = worker.run("unwritable")
    assert (status, headers["X-Gpud-Retry"]) == (422, "no")
    assert "cannot be written as JSON" in answer["error"]["error_message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", None, 200),
        ("HEAD", "/health", None, 200),
        ("GET", "/", None, 404),
        ("GET", "/run", None, 405),
        ("POST", "/run", b"{not json", 422),
    ],
)
def test_other_requests_are_answered_plainly(
    worker: Worker, method: str, path: str, body: bytes | None, status: int
) -> None:
    assert worker.ask(method, path, body)[0] == status


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /run HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /run HTTP/1.1\r\nContent-Length: x\r\n\r\n", 411),
        (b"POST /run HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /run HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    ],
)
def test_requests_that_are_none_end_the_connection(worker: Worker, raw: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=LIMIT_S) as connection:
        connection.sendall(raw)
        with connection.makefile("rb") as reader:
            answer = reader.read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert worker.run(1)[0] == 200


def test_one_connection_carries_many_jobs(worker: Worker) -> None:
    connection = worker.connect()
    for number in range(20):
        connection.request("POST", "/run", json.dumps(number), {"Content-Type": "application/json"})
        assert json.loads(connection.getresponse().read())["echo"] == number
    connection.close()


def test_a_caller_that_hangs_up_cancels_the_handler(worker: Worker) -> None:
    worker.hang_up_on("wait", after="begun")
    assert worker.says() == "cancelled"
    assert worker.run("next")[0] == 200


@pytest.mark.parametrize(
    ("handler", "value", "begun", "expected"),
    [
        ("plain", {"input": "slow"}, "begun", "slept"),
        ("yields", {"input": {"count": 20, "slow": True}}, "", [{"number": n} for n in range(20)]),
    ],
)
def test_with_a_status_path_a_job_goes_on_and_its_outcome_is_told_later(
    handler: str, value: object, begun: str, expected: object
) -> None:
    with a_worker(handler, status_path="/outcome") as worker:
        worker.hang_up_on(value, after=begun, X_Gpud_Job_Id="job_1", X_Gpud_Delivery="3")
        status, said, headers = worker.ask("GET", "/outcome/job_1")
        assert (status, headers["X-Gpud-Delivery"]) == (202, None)
        until_s = time.monotonic() + LIMIT_S
        while status == 202 and time.monotonic() < until_s:
            status, said, headers = worker.ask("GET", "/outcome/job_1")
        assert (status, said, headers["X-Gpud-Delivery"]) == (200, expected, "3")
        assert worker.ask("GET", "/outcome/job_2")[0] == 404


def test_a_failure_is_told_later_too() -> None:
    with a_worker("plain", status_path="/outcome") as worker:
        worker.run({"input": "never again"}, X_Gpud_Job_Id="job_1")
        status, said, headers = worker.ask("GET", "/outcome/job_1")
        assert (status, headers["X-Gpud-Retry"], headers["X-Gpud-Delivery"]) == (422, "no", "1")
        assert said["error"]["error_message"] == "the prompt is empty"


def test_a_job_is_stopped_by_its_id_and_its_connection_goes_on(worker: Worker) -> None:
    connection = worker.connect()
    headers = {"Content-Type": "application/json", "X-Gpud-Job-Id": "job_7"}
    connection.request("POST", "/run", b'"wait"', headers)
    assert worker.says() == "begun"
    assert worker.ask("POST", "/cancel", b"{}", X_Gpud_Job_Id="job_other")[0] == 200
    assert worker.ask("POST", "/cancel", b"{}", X_Gpud_Job_Id="job_7")[0] == 200
    assert worker.says() == "cancelled"
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]["error_type"]) == (409, "Cancelled")
    connection.request("POST", "/run", b"1", headers)
    assert connection.getresponse().status == 200
    connection.close()


def test_more_jobs_than_it_takes_come_again(worker: Worker) -> None:
    waiting = [worker.connect() for _ in range(2)]
    for connection in waiting:
        connection.request("POST", "/run", b'"wait"', {"Content-Type": "application/json"})
        assert worker.says() == "begun"
    status, _, headers = worker.ask("POST", "/run", b'"too many"')
    assert (status, headers["Retry-After"]) == (503, "1")
    for connection in waiting:
        connection.close()
    assert [worker.says(), worker.says()] == ["cancelled"] * 2


class _Progress(BaseHTTPRequestHandler):
    got: list[tuple[str, str | None, object]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, self.headers["X-Gpud-Job-Token"], json.loads(body)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Keep quiet."""


def test_progress_is_posted_with_the_jobs_token_and_before_the_result(worker: Worker) -> None:
    _Progress.got = []
    with HTTPServer(("127.0.0.1", 0), _Progress) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1/jobs/job_1/progress?x=1"
        status, answer, _ = worker.run("progress", X_Gpud_Progress_Url=url, X_Gpud_Job_Token="t0ken")
        got = list(_Progress.got)
        server.shutdown()
        thread.join()
    assert (status, answer) == (200, "done")
    assert got[-1] == ("/v1/jobs/job_1/progress?x=1", "t0ken", {"step": 2})


def test_progress_nobody_takes_harms_no_job(worker: Worker) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    assert worker.run("progress", X_Gpud_Progress_Url=url)[1] == "done"
    assert worker.run("progress")[1] == "done"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("handler", ["yields", "async_yields"])
def test_a_generator_is_streamed_line_by_line_and_closed_when_nobody_reads(handler: str, python: str) -> None:
    with a_worker(handler, python=python) as worker:
        connection = worker.connect()
        connection.request("POST", "/run", b'{"count": 3}', {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "application/x-ndjson"
        assert [json.loads(line) for line in response.read().splitlines()] == [
            {"number": 0},
            {"number": 1},
            {"number": 2},
        ]
        assert worker.says() == "closed"
        connection.close()
        worker.hang_up_on({"count": 1_000_000, "slow": True}, after="")
        assert worker.says() == "closed"


def test_an_error_in_the_middle_of_a_stream_is_its_last_line() -> None:
    with a_worker("yields") as worker:
        connection = worker.connect()
        connection.request(
            "POST", "/run", b'{"count": 1, "raise": true}', {"Content-Type": "application/json"}
        )
        chunk, last = map(json.loads, connection.getresponse().read().splitlines())
        connection.close()
        assert chunk == {"number": 0}
        assert (last["gpud_error"]["error_type"], last["gpud_error"]["error_message"]) == (
            "ValueError",
            "in the\nmiddle",
        )


@pytest.mark.parametrize("python", PYTHONS)
def test_an_async_handler_runs_beside_others_and_is_cancelled(python: str) -> None:
    with a_worker("awaits", python=python) as worker:
        assert worker.run("x")[1] == ["async", "x"]
        assert worker.run("raise")[1]["error"]["error_type"] == "ValueError"
        connection = worker.connect()
        connection.request("POST", "/run", b'"wait"', {"Content-Type": "application/json"})
        assert worker.says() == "begun"
        assert worker.run("beside")[1] == ["async", "beside"]
        connection.close()
        assert worker.says() == "cancelled"


@pytest.mark.parametrize(
    ("handler", "value", "expected"),
    [("Callable", 1, b'["object",1]'), ("returns_generator", 3, b"0\n1\n2\n")],
)
def test_what_kind_a_handler_is_is_found_out(handler: str, value: object, expected: bytes) -> None:
    with a_worker(handler) as worker:
        connection = worker.connect()
        connection.request("POST", "/run", json.dumps(value), {"Content-Type": "application/json"})
        assert connection.getresponse().read() == expected
        connection.close()


@pytest.mark.parametrize("python", PYTHONS)
def test_sigterm_lets_running_jobs_finish_and_takes_no_more(python: str) -> None:
    with a_worker("plain", python=python) as worker:
        idle, busy = worker.connect(), worker.connect()
        idle.request("GET", "/health")
        assert idle.getresponse().read()
        busy.request("POST", "/run", b'"slow"', {"Content-Type": "application/json"})
        assert worker.says() == "begun"
        os.kill(worker.process.pid, signal.SIGTERM)
        assert json.loads(busy.getresponse().read()) == "slept"
        assert worker.says() == "ended"
        assert worker.process.wait(LIMIT_S) == 0
        for connection in (idle, busy):
            connection.close()


def test_it_is_one_file_of_the_standard_library_that_python_3_8_reads() -> None:
    text = SDK.read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    named = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert named <= sys.stdlib_module_names | {"__future__"}


def test_a_start_imports_nothing_heavy() -> None:
    program = f"import sys; sys.path.insert(0, {str(SDK.parent)!r}); import gpud_worker; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "http", "http.client", "ctypes", "inspect", "email", "logging", "traceback", "typing"}
    assert not heavy & set(re.split(r"\s+", ran.stdout))
