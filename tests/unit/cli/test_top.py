"""What `gpud top` shows, in any size, and that it gives the terminal back."""

from __future__ import annotations

import json
import os
import signal
import termios
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.cli import exits
from gpud.cli.top_model import ORDERS, EndpointRow, GpuRow, Look, Top, WorkerRow, samples_of, top_of
from gpud.cli.top_screen import Shown, keys_in, pressed
from gpud.cli.top_view import SECTIONS, Frame, draw
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, Reply, json_reply
from tests.unit.cli.test_terminal import Terminal

if TYPE_CHECKING:
    from tests.unit.cli.canned import Seen
    from tests.unit.cli.conftest import Gpud

METRICS = """\
# HELP gpud_endpoint_arrivals_total Requests and jobs that came.
gpud_endpoint_arrivals_total{endpoint="llm"} 120
gpud_queue_oldest_seconds{endpoint="api"} 9.5
gpud_worker_cpu_cores{worker="wk_aaaaaaaaaaaaaaaa",endpoint="llm"} 1.5
gpud_worker_gpu_memory_bytes{endpoint="llm",worker="wk_aaaaaaaaaaaaaaaa"} 1073741824
gpud_request_seconds_bucket{endpoint="llm",le="0.1"} 4
gpud_worker_cpu_cores{worker="wk_b"} broken
"""


def _state() -> dict[str, object]:
    wait = {"reason": "waiting_for_gpu", "detail": "4 GPUs are needed; held by llm.", "facts": {}}
    gpu = documents.gpu(
        used_mib=40_000, utilization_percent=91.0, power_w=310.0, temperature_c=71.0, endpoint="llm"
    )
    worker = documents.worker(gpu_uuids=[gpu["uuid"]])
    standby = {"id": "sb_1", "endpoint": "api", "rung": "parked", "created_at": documents.ago(minutes=1)}
    return {
        "daemon": [{"ready": True, "version": "1.0", "parts": {"engine": "Docker is away."}}],
        "endpoints": [
            {**documents.endpoint(), "max_workers": 4},
            {**documents.endpoint("api", waiting=2, in_flight=0, waits=[wait]), "max_workers": 1},
        ],
        "workers": [worker],
        "standbys": [standby],
        "gpus": [gpu, documents.gpu(1)],
        "pulls": [],
    }


def _look(at_s: float = 10.0, metrics: str = METRICS) -> Look:
    return Look(at_s, _state(), samples_of(metrics))


def test_rows_are_made_of_state_and_counters() -> None:
    before = _look(8.0, METRICS.replace("} 120", "} 100"))
    top = top_of(_look(), before)
    llm, api = sorted(top.endpoints, key=lambda row: row.name, reverse=True)
    assert (llm.ready, llm.desired, llm.most, llm.rate, llm.running) == (1, 2, 4, 10.0, 3)
    assert (api.waiting, api.oldest_s, api.why) == (2, 9.5, "4 GPUs are needed; held by llm.")
    worker = next(row for row in top.workers if row.state == "ready")
    assert (worker.gpus, worker.cpu_cores, worker.gpu_memory_bytes) == ("0", 1.5, 1 << 30)
    assert next(row for row in top.workers if row.state == "standby").why == "parked"
    assert (top.gpus[0].percent, top.gpus[0].power_w, top.gpus[0].holders) == (91.0, 310.0, "llm")
    assert (top.rate, top.running, top.waiting, top.faults) == (10.0, 3, 2, ("engine: Docker is away.",))


def test_there_are_no_rates_before_two_looks_and_a_new_daemon_counts_anew() -> None:
    assert top_of(_look(), None).rate is None
    assert top_of(_look(10.0, METRICS), _look(8.0, METRICS.replace("} 120", "} 9999"))).rate == 60.0


@pytest.mark.parametrize(
    ("order", "first"), [("name", "api"), ("load", "api"), ("age", "api"), ("memory", "llm")]
)
def test_the_order_is_the_users(order: str, first: str) -> None:
    top = top_of(_look(), None, order=order)
    assert top.endpoints[0].name == first
    assert top_of(_look(), None, order=order, backwards=True).endpoints[-1].name == first


_COUNTS = st.integers(0, 30)


def _top_with(counts: tuple[int, int, int], word: str) -> Top:
    """So many GPUs, endpoints and workers, whose texts are all this word."""
    gpus, endpoints, workers = counts
    gpu = GpuRow(0, word, 1e5, 2e5, 12.0, None, 3e4, word, word, word)
    endpoint = EndpointRow(word, word, 1, 10**6, 3, 1e6, 10**6, 2, 1e6, word)
    worker = WorkerRow(word, word, word, word, 1e3, 1e15, 1e15, "", word, word)
    return Top(word, True, (word,), 1e6, 1, 1, (gpu,) * gpus, (endpoint,) * endpoints, (worker,) * workers)  # noqa: FBT003


@given(
    counts=st.tuples(_COUNTS, _COUNTS, _COUNTS),
    word=st.sampled_from(["", "a", "wörd " * 4, "x" * 300]),
    frame=st.builds(
        Frame,
        width=st.integers(20, 200),
        height=st.integers(1, 60),
        section=st.sampled_from(SECTIONS),
        scroll=st.integers(0, 50),
        order=st.sampled_from(ORDERS),
        note=st.sampled_from(["", "lost the daemon"]),
        keys=st.booleans(),
        lost=st.booleans(),
    ),
)
def test_a_frame_never_leaves_its_terminal(counts: tuple[int, int, int], word: str, frame: Frame) -> None:
    lines = draw(_top_with(counts, word), frame)
    assert len(lines) <= frame.height
    assert all(line.cell_len <= frame.width and "\n" not in line.plain for line in lines)


def test_everything_is_shown_where_there_is_room_and_the_rest_is_counted() -> None:
    workers = tuple(top_of(_look(), None).workers[0]._replace(id=f"wk_{number:02}") for number in range(40))
    top = top_of(_look(), None)._replace(workers=workers)
    text = "\n".join(line.plain for line in draw(top, Frame(width=80, height=24, keys=True)))
    for told in ("llm", "api", "4 GPUs are needed; held by llm.", "H100", "91%", "310 W", "71°", "more"):
        assert told in text
    alone = "\n".join(
        line.plain for line in draw(top, Frame(width=80, height=24, section="workers", scroll=30))
    )
    assert ("wk_39" in alone, "wk_00" in alone) == (True, False)
    assert len(draw(top, Frame(width=80))) > 40, "without a height there is no end"


def test_keys_change_what_is_shown_and_others_change_nothing() -> None:
    shown = Shown()
    for key in keys_in("l3\033[Bj\033[6~\033[A"):
        shown = pressed(shown, key)
    assert shown == Shown(order="load", section="workers", scroll=11)
    assert pressed(shown, "z") == shown
    assert pressed(Shown(), "\033[A").scroll == 0
    assert pressed(pressed(shown, " "), "o") == shown._replace(paused=True, backwards=True)
    assert pressed(shown, "q").over
    assert keys_in("a\033[1;5Bq") == ["a", "\033[1;5B", "q"]
    assert {pressed(Shown(), key).order for key in "nlma"} == set(ORDERS)


@pytest.fixture
def running(daemon: CannedDaemon) -> CannedDaemon:
    daemon.on("GET", "/v1/state", _state())
    daemon.on("GET", "/metrics", Reply(body=METRICS.encode()))
    return daemon


def test_without_a_terminal_it_is_printed_once(gpud: Gpud, running: CannedDaemon) -> None:
    ran = gpud("top")
    assert ran.code == exits.OK
    assert "\033" not in ran.out
    assert "4 GPUs are needed; held by llm." in ran.out
    assert json.loads(gpud("top", "--json").out).keys() == _state().keys()
    assert len(running.asked("GET")) == 5


def test_a_daemon_that_is_not_there_is_said_at_once(gpud: Gpud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUD_SOCKET", "/nowhere/api.sock")
    assert gpud("top").code == exits.UNREACHABLE
    assert gpud("top", "--interval", "0.001s").code == exits.BAD_USAGE


@pytest.mark.parametrize("how", ["q", "\x03", "TERM"])
def test_the_terminal_is_given_back_however_it_ends(how: str, running: CannedDaemon) -> None:
    del running
    terminal = Terminal("top", "--interval", "200ms", columns=80)
    before = termios.tcgetattr(terminal.fd)
    drawn = terminal.until(lambda text: "q quit" in text)
    assert "\033[?1049h" in drawn
    assert termios.tcgetattr(terminal.fd)[3] & termios.ICANON == 0
    if how == "TERM":
        os.kill(terminal.pid, signal.SIGTERM)
    else:
        terminal.type(how)
    drawn = terminal.until(lambda _drawn: False)
    after = termios.tcgetattr(terminal.fd)
    code, _ = terminal.end()
    wanted = {"q": exits.OK, "\x03": exits.INTERRUPTED, "TERM": 128 + signal.SIGTERM}
    assert code == wanted[how]
    assert "\033[?1049l" in drawn
    assert drawn.rindex("\033[?25h") > drawn.rindex("\033[?25l")
    assert "Traceback" not in drawn
    assert after[3] == before[3]


def test_a_lost_daemon_is_said_and_found_again(running: CannedDaemon) -> None:
    away = False

    def state(_seen: Seen) -> Reply:
        return json_reply({"title": "Away", "detail": "It stops."}, 503) if away else json_reply(_state())

    running.on("GET", "/v1/state", state)
    terminal = Terminal("top", "--interval", "200ms", columns=100)
    terminal.until(lambda text: "q quit" in text)
    away = True
    terminal.until(lambda text: "lost the daemon" in text)
    away = False
    seen = len(terminal.drawn)
    terminal.until(lambda text: "ready  " in text[seen:])
    terminal.type("q")
    assert terminal.end()[0] == exits.OK
