"""Checks that a refusal is one clear message, the same at the API, on the command line and in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    from tests.e2e.daemon import DaemonProcess
    from tests.e2e.http_client import Reply

MARKS_OF_A_FAULT = ("Traceback", "Internal error", "internal-error")


def assert_problem(daemon: DaemonProcess, reply: Reply, *, status: int, slug: str, says: list[str]) -> str:
    """The answer is a problem document that says what, why and what to do; returns its detail."""
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["type"] == f"/problems/{slug}"
    assert problem["title"]
    detail = str(problem["detail"])
    for words in says:
        assert words in detail, detail
    page = daemon.api("GET", problem["type"])
    assert page.status == 200, "the page behind the type says what to do"
    return detail


def assert_cli(ran: subprocess.CompletedProcess[str], *, code: int, says: list[str]) -> None:
    """The command failed with this exit code and says what the API says."""
    told = " ".join(ran.stderr.split())
    assert ran.returncode == code, (ran.returncode, ran.stdout, ran.stderr)
    for words in says:
        assert words in told, told
    for mark in MARKS_OF_A_FAULT:
        assert mark not in told


def assert_logged(daemon: DaemonProcess, event: str, *, says: list[str], **fields: object) -> None:
    """The log has the event, and a field of it says what the API says."""
    lines = daemon.log_lines(event, **fields)
    assert lines, f"no {event} {fields} in the log:\n{daemon.log_tail()}"
    told = str(lines[-1])
    for words in says:
        assert words in told, told
    assert "Traceback" not in daemon.log_text()
