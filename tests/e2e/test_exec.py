"""Sessions in workers, from the command line to a real container and back, over socket and TCP."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import ROOT, static_gpus, worker_spec
from tests.e2e.http_client import exchange
from tests.e2e.typist import Typist
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = pytest.mark.e2e

EVIL = "$(touch /evil)`touch /evil`;touch /evil|<script>alert('1')</script>\\n\"&& \x1b[31m"
"""What a shell or a page would obey."""
EVERY_BYTE = bytes(range(256)) * 4096


def test_a_person_and_a_pipe_use_a_worker_and_leave_nothing_behind(
    start_daemon: DaemonStarter, worker_image: str, static_image: str
) -> None:
    daemon = start_daemon(settings={**static_gpus(2), "exec": {"idle_timeout_s": 300}})
    daemon.deploy(worker_spec("hello", worker_image, env={"EVIL": EVIL}, scale={"min_workers": 1}))
    (worker,) = daemon.wait_ready("hello")
    worker_id = worker["id"]
    programs = _programs(daemon, worker_id)
    _a_shell_on_a_terminal(daemon, worker_id)
    _a_terminal_is_given_back_whatever_ends_it(daemon, worker_id)
    _pipes(daemon, worker_id)
    _refusals(daemon, worker_id)
    _foreign_names(daemon)
    until(lambda: _programs(daemon, worker_id) == programs, what="only its own processes")
    _without_a_shell(daemon, static_image)
    _audited(daemon, worker_id)
    _ends_with_the_worker_and_the_daemon(daemon, worker_id)


def _programs(daemon: DaemonProcess, worker_id: str) -> list[str]:
    return [process[-1] for process in daemon.container_of(worker_id).top()["Processes"]]


def _env(daemon: DaemonProcess, *, tcp: bool = False) -> dict[str, str]:
    where = {"GPUD_SOCKET": str(daemon.run_dir / "api.sock")}
    if tcp:
        where = {"GPUD_URL": f"http://127.0.0.1:{daemon.port}", "GPUD_KEY": daemon.key}
    return {**os.environ, "PYTHONPATH": str(ROOT), **where}


def _piped(
    daemon: DaemonProcess, *words: str, stdin: bytes = b"", tcp: bool = False
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gpud", "exec", *words],
        env=_env(daemon, tcp=tcp),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def _a_shell_on_a_terminal(daemon: DaemonProcess, worker_id: str) -> None:
    for tcp in (False, True):
        with Typist(["exec", "-it", worker_id], _env(daemon, tcp=tcp), rows=31, cols=97) as person:
            person.reads(b"# ")
            assert not person.terminal_is_as_before
            person.types(b"stty size; echo $TERM\r")
            person.reads(b"31 97\r\nxterm-256color\r\n")
            person.resize(20, 44)
            person.types(b"while test \"$(stty size)\" != '20 44'; do sleep 0.1; done; echo resi''zed\r")
            person.reads(b"resized")
            person.types(b"sh -c 'echo run''ning; exec sleep 4001'\r")
            person.reads(b"running")
            person.types(b"\x03")
            person.reads(b"# ")
            person.types(b"exit 7\r")
            assert person.leaves() == 7
            assert person.terminal_is_as_before


def _a_terminal_is_given_back_whatever_ends_it(daemon: DaemonProcess, worker_id: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Typist(
            ["exec", "-it", worker_id, "--", "sh", "-c", "trap '' HUP; echo up; sleep 4002"], _env(daemon)
        ) as person:
            person.reads(b"up")
            person.process.send_signal(number)
            assert person.leaves() == 128 + number
            assert person.terminal_is_as_before


def _pipes(daemon: DaemonProcess, worker_id: str) -> None:
    ran = _piped(daemon, "-i", "hello", "--", "sh", "-c", "cat; echo err >&2; exit 3", stdin=EVERY_BYTE)
    assert (ran.returncode, ran.stderr) == (3, b"err\n")
    assert ran.stdout == EVERY_BYTE
    words = ("sh", "-c", 'ls /evil; cat; printf %s "$EVIL"')
    ran = _piped(daemon, worker_id, "--", *words, stdin=b"not for it", tcp=True)
    assert (ran.returncode, ran.stdout) == (0, EVIL.encode())
    assert b"No such file" in ran.stderr


def _refusals(daemon: DaemonProcess, worker_id: str) -> None:
    absent = _piped(daemon, worker_id, "--", "/bin/nosuch")
    assert absent.returncode == 127
    assert b"has no /bin/nosuch" in absent.stderr
    unknown = _piped(daemon, "wk_aaaaaaaaaaaaaaaa", "--", "true")
    assert (unknown.returncode, unknown.stderr[:6]) == (3, b"gpud: ")
    token = daemon.cli("key", "create", "--scope", "write").stdout.strip()
    refused = daemon.cli(
        "exec", worker_id, "--url", f"http://127.0.0.1:{daemon.port}", "--", "true", env={"GPUD_KEY": token}
    )
    assert (refused.returncode, "this needs exec" in refused.stderr) == (5, True)


def _foreign_names(daemon: DaemonProcess) -> None:
    """A name that leads here reaches endpoints, and the API with a key, and nothing else."""
    evil = {"Host": "evil.example"}
    assert daemon.call("hello", headers=evil).status == 200
    for path, headers, status in (
        ("/docs", evil, 421),
        ("/docs", {}, 200),
        ("/v1/endpoints", evil, 421),
        ("/v1/endpoints", {**evil, "Authorization": f"Bearer {daemon.key}"}, 200),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
        assert exchange(connection, "GET", path, body=None, headers=headers).status == status, path


def _without_a_shell(daemon: DaemonProcess, static_image: str) -> None:
    daemon.deploy(worker_spec("bare", static_image, scale={"min_workers": 1}))
    (bare,) = daemon.wait_ready("bare")
    with Typist(["exec", "-it", bare["id"]], _env(daemon)) as person:
        assert person.leaves() == 127
        assert b"Images without a shell" in person.seen
        assert person.terminal_is_as_before


def _audited(daemon: DaemonProcess, worker_id: str) -> None:
    entries = daemon.get(f"/v1/audit-log?operation=exec_worker&subject=workers/{worker_id}&limit=500")[
        "items"
    ]
    details = [entry["detail"] for entry in entries]
    assert len([one for one in details if one.startswith("began")]) * 2 == len(details)
    assert any(one.endswith(": exit code 7") for one in details)
    assert any(one.endswith(": the client left") for one in details)
    assert not any("4001" in one for one in details), "what is typed is not recorded"


def _ends_with_the_worker_and_the_daemon(daemon: DaemonProcess, worker_id: str) -> None:
    with Typist(["exec", "-it", worker_id], _env(daemon)) as person:
        person.reads(b"# ")
        daemon.api("DELETE", f"/v1/workers/{worker_id}")
        assert person.leaves() == 1
        assert b"does not keep a worker" in person.seen
        assert person.terminal_is_as_before
    (worker,) = daemon.wait_ready("hello")
    with Typist(["exec", "-it", worker["id"]], _env(daemon)) as person:
        person.reads(b"# ")
        assert daemon.terminate() == 0
        assert person.leaves() == 1
        assert b"gpud is stopping" in person.seen
