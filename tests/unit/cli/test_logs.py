"""`gpud logs` asks for what was said, and shows it so that no terminal obeys a worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gpud.cli import exits
from tests.unit.cli.canned import CannedDaemon, Reply

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Gpud

WORKER = "wk_aaaaaaaaaaaaaaaa"


def _line(text: str, stream: str = "stdout", n: int = 0) -> dict[str, object]:
    return {
        "at": f"2026-11-22T05:22:16.50413892{n}Z",
        "endpoint": "llm",
        "worker_id": WORKER,
        "stream": stream,
        "text": text,
        "cursor": f"0.1-{n}",
    }


def _page(*lines: dict[str, object], complete: bool = True, then: str = "0.1-9") -> dict[str, object]:
    return {"items": list(lines), "next": then, "complete": complete, "lost_bytes": 0}


def test_the_last_lines_of_an_endpoint(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/logs", _page(_line("hello"), _line("worker.ready", "gpud")))
    done = gpud("logs", "llm", "-n", "2", "--since", "1h", "--regex", "a|b", "-i", "--stream", "stderr", "-p")
    assert done.code == exits.OK
    first, second = done.out.splitlines()
    assert first.endswith(f"{WORKER} hello")
    assert second.endswith(f"{WORKER} gpud: worker.ready")
    (asked,) = daemon.asked("GET")
    assert asked.query.pop("since").startswith("20")
    assert asked.query == {
        "endpoint": "llm",
        "limit": "2",
        "regex": "a|b",
        "ignore_case": "true",
        "stream": "stderr",
        "previous": "true",
    }


def test_a_worker_is_known_by_its_id_and_a_job_needs_no_name(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/logs", _page())
    gpud("logs", WORKER, "--grep", "x")
    gpud("logs", "--job", "job-1")
    worker, job = daemon.asked("GET")
    assert worker.query == {"worker": WORKER, "grep": "x", "limit": "100"}
    assert job.query == {"job": "job-1", "limit": "100"}
    assert gpud("logs").code == exits.BAD_USAGE


@pytest.mark.parametrize(("words", "shown"), [((), "red"), (("--raw",), "\x1b[31mred\x07")])
def test_a_worker_writes_nothing_that_the_terminal_obeys(
    gpud: Gpud, daemon: CannedDaemon, words: tuple[str, ...], shown: str
) -> None:
    daemon.on("GET", "/v1/logs", _page(_line("\x1b[31mred\x07")))
    assert gpud("logs", "llm", "--no-prefix", *words).out == shown + "\n"


def test_all_goes_through_every_page(gpud: Gpud, daemon: CannedDaemon) -> None:
    pages = iter([_page(_line("one"), complete=False, then="0.1-5"), _page(_line("two"))])
    daemon.on("GET", "/v1/logs", lambda _: Reply(body=json.dumps(next(pages)).encode()))
    assert gpud("logs", "llm", "--all", "--no-prefix").out == "one\ntwo\n"
    first, second = daemon.asked("GET")
    assert "cursor" not in first.query
    assert second.query["cursor"] == "0.1-5"
    assert second.query["order"] == "oldest"


def test_following_shows_each_line_as_it_comes_and_says_what_was_lost(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    stream = [
        b"id: 0.1-1\ndata: " + json.dumps(_line("one")).encode() + b"\n\n",
        b'event: lost\ndata: {"lost_bytes": 77}\n\n',
        b": nothing new\n\nid: 0.1-2\ndata: " + json.dumps(_line("two")).encode() + b"\n\n",
    ]
    daemon.on("GET", "/v1/logs", Reply(body=stream, headers={"Content-Type": "text/event-stream"}))
    done = gpud("logs", "llm", "-f", "-n", "1", "--json")
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["one", "two"]
    assert "77 bytes were deleted" in done.err
    assert done.code == exits.UNREACHABLE
    assert daemon.asked("GET")[0].query == {"endpoint": "llm", "follow": "true", "limit": "1"}


def test_what_a_worker_used(gpud: Gpud, daemon: CannedDaemon) -> None:
    step = {
        "at": "2026-11-22T05:22:16.000Z",
        "cpu_cores": 1.5,
        "memory_bytes": 1 << 30,
        "memory_bytes_max": 1 << 30,
        "gpu_memory_bytes": 4 << 30,
        "gpu_utilization_percent": 87.4,
    }
    page = {"worker_id": WORKER, "step_s": 10.0, "items": [step, step, step]}
    daemon.on("GET", f"/v1/workers/{WORKER}/stats", page)
    done = gpud("worker", "stats", WORKER, "-n", "2", "--day")
    assert len(done.out.splitlines()) == 3
    assert done.out.splitlines()[1].split()[:3] == ["2026-11-22", "05:22:16", "1.50"]
    assert done.out.splitlines()[1].split()[-1] == "87"
    assert daemon.asked("GET")[0].query == {"span": "day"}
