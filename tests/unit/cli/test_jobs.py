"""The commands for jobs ask for what was said, and tell an end by their exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gpud.cli import exits
from tests.unit.cli.canned import CannedDaemon, Reply, json_reply

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Gpud

JOB = {
    "id": "job-1",
    "endpoint": "llm",
    "state": "FAILED",
    "reason": "worker_died",
    "attempt": 3,
    "worker": "wk_a",
    "created_at": "2026-11-21T14:00:00.000Z",
    "dead": True,
    "error": "killed",
    "attempts": [
        {
            "delivery": 1,
            "ending": "worker_died",
            "worker": "wk_a",
            "reason": "",
            "exit_code": 137,
            "error": "killed",
        }
    ],
}


def test_run_sends_the_policy_and_prints_the_output(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v2/llm/run", {"id": "job-1", "status": "IN_QUEUE"})
    daemon.on(
        "GET", "/v2/llm/status-sync/job-1", {"id": "job-1", "status": "COMPLETED", "output": {"a": "ü"}}
    )
    done = gpud(
        "run", "llm", '{"prompt": 1}', "--ttl", "1h", "--priority", "3", "--group", "g", "--low-priority"
    )
    assert (done.code, done.out) == (exits.OK, '{"a": "ü"}\n')
    assert daemon.asked("POST")[0].document == {
        "input": {"prompt": 1},
        "policy": {"ttl": 3_600_000, "priority": 3, "lowPriority": True, "groupKey": "g"},
    }


def test_run_detached_prints_the_id_alone(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v2/llm/run", {"id": "job-1", "status": "IN_QUEUE"})
    assert gpud("run", "-d", "llm", "1").out == "job-1\n"


def test_run_tells_why_a_job_waits_and_fails_with_it(gpud: Gpud, daemon: CannedDaemon) -> None:
    answers = iter(
        [
            {"id": "job-1", "status": "IN_QUEUE", "reason": "waiting_for_gpu"},
            {"id": "job-1", "status": "FAILED", "error": "boom"},
        ]
    )
    daemon.on("POST", "/v2/llm/run", {"id": "job-1", "status": "IN_QUEUE"})
    daemon.on("GET", "/v2/llm/status-sync/job-1", lambda _: json_reply(next(answers)))
    done = gpud("run", "llm", "1")
    assert done.code == exits.FAILED
    assert "waits: waiting for gpu" in done.err
    assert "boom" in done.err


@pytest.mark.parametrize("given", ["{", "@/nowhere/x.json"])
def test_an_input_that_is_no_json_is_bad_usage(given: str, gpud: Gpud) -> None:
    assert gpud("run", "llm", given).code == exits.BAD_USAGE


def test_a_refusal_of_the_job_api_is_told_in_its_own_words(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v2/llm/run", json_reply({"error": "input is required"}, 400))
    assert "input is required" in gpud("run", "llm", "null").err


def test_jobs_are_listed_and_filtered(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists("/v1/jobs", JOB)
    done = gpud("job", "ls", "--dead", "--endpoint", "llm", "--state", "FAILED")
    assert "worker died" in done.out
    assert daemon.asked("GET")[0].query == {
        "dead": "true",
        "endpoint": "llm",
        "state": "FAILED",
        "limit": "500",
    }


def test_a_job_is_shown_with_every_attempt(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/jobs/job-1", JOB)
    done = gpud("job", "get", "job-1")
    assert "1. worker died on wk_a, exit code 137, killed" in done.out
    assert json.loads(gpud("job", "get", "job-1", "--json").out) == JOB


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_jobs_are_cancelled_and_retried_in_turn(verb: str, gpud: Gpud, daemon: CannedDaemon) -> None:
    for name in ("job-1", "job-2"):
        daemon.on("POST", f"/v1/jobs/{name}/{verb}", {**JOB, "id": name, "state": "CANCELLED"})
    done = gpud("job", verb, "job-1", "job-2")
    assert done.code == exits.OK
    assert "job-2 is CANCELLED" in done.err


@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_dead_letters_are_redriven_and_purged(verb: str, gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", f"/v1/dead-letters/{verb}", {"count": 7})
    done = gpud("job", verb, "--endpoint", "llm", "--limit", "9")
    assert "7 dead letters" in done.err
    assert daemon.asked("POST")[0].query == {"endpoint": "llm", "limit": "9"}


def test_a_stream_is_printed_as_it_comes(gpud: Gpud, daemon: CannedDaemon) -> None:
    body = b'id: 1\nevent: chunk\ndata: "a"\n\nevent: end\ndata: {"state": "COMPLETED"}\n\n'
    daemon.on("GET", "/v1/jobs/job-1/stream", Reply(body=body, headers={"Content-Type": "text/event-stream"}))
    assert gpud("job", "stream", "job-1").out == '"a"\n{"state": "COMPLETED"}\n'
