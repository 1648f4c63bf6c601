"""Names, errors and outputs that somebody else wrote: nothing of them is obeyed by a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.cli.screen import harmless, json_text
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, problem

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Gpud

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\x1bPq\x1b\\\r\x08\u202e\x00"
    "$(reboot)`id`<script>alert(1)</script>;rm -rf /"
)
"""Titles, cleared screens, colours, overwritten lines; and what a shell or a page would obey."""
_KEPT = ("name", "id", "state", "condition", "type", "status", "health", "worker_id", "at", "policy", "rung")
PATHS = (
    "/v1/endpoints",
    "/v1/endpoints/llm",
    "/v1/workers",
    "/v1/workers/wk_aaaaaaaaaaaaaaaa",
    "/v1/gpus",
    "/v1/images",
    "/v1/pulls",
    "/v1/standbys",
    "/v1/events",
    "/v1/logs",
    "/v1/audit-log",
    "/v1/keys",
    "/v1/jobs",
    "/v1/jobs/job_a",
    "/v1/registries",
    "/v1/system",
    "/v1/audit",
    "/v1/endpoints/llm/starts",
)
COMMANDS = (
    ("endpoint", "ls"),
    ("endpoint", "get", "llm"),
    ("worker", "ls"),
    ("worker", "get", "wk_aaaaaaaaaaaaaaaa"),
    ("gpu", "ls"),
    ("events",),
    ("logs", "llm"),
    ("audit-log",),
    ("key", "ls"),
    ("explain", "llm"),
)


def poisoned(node: Any, name: str = "") -> Any:
    """Every text of a document, spoiled, where a command does not depend on it."""
    if isinstance(node, dict):
        return {key: poisoned(value, key) for key, value in node.items()}
    if isinstance(node, list):
        return [poisoned(value, name) for value in node]
    if isinstance(node, str) and name not in _KEPT and not name.endswith(("_at", "since")):
        return node + EVIL
    return node


def obeyed(text: str) -> list[str]:
    """Characters that a terminal would obey."""
    unsafe = {*map(chr, range(0x7F, 0xA0)), "\u202e", "\x1b"}
    return [char for char in text if (char < " " and char not in "\n\t") or char in unsafe]


@pytest.fixture
def hostile(daemon: CannedDaemon) -> CannedDaemon:
    at = documents.ago(minutes=1)
    rows = {
        "/v1/endpoints": [documents.endpoint(last_error="x")],
        "/v1/workers": [documents.worker(detail="x")],
        "/v1/gpus": [documents.gpu(reason="x", health="quarantined")],
        "/v1/events": [
            {"seq": 1, "at": at, "kind": "x", "endpoint": "x", "worker_id": "x", "facts": {"error": "x"}}
        ],
        "/v1/logs": [{"at": at, "text": "x", "stream": "stdout", "worker_id": "w"}],
        "/v1/audit-log": [
            {"seq": 1, "at": at, "caller": "x", "subject": "x", "detail": "x", "status": 200, "source": "x"}
        ],
        "/v1/keys": [{"id": "key_a", "label": "x", "scopes": ["x"], "created_at": at}],
    }
    for path in PATHS:
        daemon.on("GET", path, poisoned({"items": rows.get(path, []), "next": None}))
    daemon.on("GET", "/v1/endpoints/llm", poisoned(documents.endpoint(last_error="x")))
    daemon.on("GET", "/v1/workers/wk_aaaaaaaaaaaaaaaa", poisoned(documents.worker(detail="x\nx")))
    return daemon


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_shows_what_a_terminal_would_obey(
    words: tuple[str, ...], gpud: Gpud, hostile: CannedDaemon
) -> None:
    ran = gpud(*words)
    assert (ran.code, obeyed(ran.out + ran.err)) == (0, []), ran.err
    as_json = gpud("--json", *words)
    assert (as_json.code, obeyed(as_json.out + as_json.err)) == (0, [])
    if words != ("explain", "llm"):
        assert "$(reboot)`id`<script>" in ran.out, "text that harms no terminal is shown as it is"
        assert any(text.endswith(EVIL) for text in _texts(as_json.out)), "JSON says exactly what was said"
    assert hostile.seen


def _texts(out: str) -> list[str]:
    found: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            node = list(node.values())
        if isinstance(node, list):
            for one in node:
                collect(one)
        elif isinstance(node, str):
            found.append(node)

    for line in out.splitlines():
        collect(json.loads(line))
    return found


def test_a_refusal_and_a_job_s_result_are_shown_without_it(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints", problem(409, EVIL, fields={"a" + EVIL: EVIL}))
    ran = gpud("endpoint", "ls")
    assert (ran.code, obeyed(ran.out + ran.err)) == (1, [])
    daemon.on("POST", "/v2/llm/run", {"id": "job_a", "status": "IN_QUEUE"})
    job = {"id": "job_a", "status": "COMPLETED", "output": EVIL}
    daemon.on("GET", "/v2/llm/status-sync/job_a", job)
    assert gpud("run", "llm", "{}").out == EVIL + "\n", "a pipe gets what was made"
    daemon.on(
        "GET", "/v2/llm/status-sync/job_a", job | {"status": "FAILED", "error": EVIL, "output": {"a": EVIL}}
    )
    ran = gpud("run", "llm", "{}")
    assert (ran.code, obeyed(ran.out + ran.err)) == (1, [])


def test_ten_megabytes_on_a_line_are_shown(gpud: Gpud, daemon: CannedDaemon) -> None:
    line = {
        "at": documents.ago(minutes=1),
        "text": "\x1b[31m" + "x" * 10_000_000,
        "stream": "stdout",
        "worker_id": "w",
    }
    daemon.on("GET", "/v1/logs", {"items": [line], "next": None})
    assert len(gpud("logs", "llm", "--no-prefix").out) == 10_000_001
    assert len(gpud("logs", "llm", "--no-prefix", "--raw").out) == 10_000_006


@given(st.text())
def test_whatever_is_said_is_harmless_and_means_the_same_as_json(text: str) -> None:
    assert obeyed(harmless(text)) == []
    assert obeyed(json_text({"a": text})) == []
    assert json.loads(json_text({"a": text}, indent=2)) == {"a": text}


def test_our_own_colours_stay() -> None:
    assert harmless("\x1b[2mdim\x1b[0m \x1b[31;1mno\x1b[0m\ud800") == "\x1b[2mdim\x1b[0m no\x1b[0m"
