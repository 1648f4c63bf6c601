"""What a request, a streamed token and a large body cost in the gateway, beside other proxies.

Every subject is one process on core 0, forwarding to one backend written in C; the load generator, in C
too, shares core 1 with the backend. In each round every subject has its turn at every load, so that the
machine's other work falls on all alike. CPU time is the proxy's own (its threads' time on a core), because
that survives a noisy machine. gpud runs with keys, routing, counting and holding on; the others forward.

At the end gpud alone serves beside the rest of a busy daemon (`peers/gpud_beside.py`). `--quick` takes three
short rounds, and leaves out LiteLLM and the highest number of streams; `--subjects gpud,nginx` picks some.
LiteLLM gets chat completions and less of everything, because it would take minutes for what others do in one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_lib.gateway_peers import CACHE, LITELLM_KEY, ROOT, compiled, proxy_command
from bench_lib.report import Report, add_arguments

BACKEND_PORT = 19_600
FIRST_PORT = 19_601
DEADLINE_S = 90.0
SUBJECTS = ("gpud", "nginx", "haproxy", "go", "aiohttp", "litellm")
CLIMBERS = ("gpud", "nginx", "go")
STREAMS_STEP = 100
STREAMS_MAX = 2000
STREAM_DELAY_MS_MAX = 20.0
LADDER_S_MAX = 360.0
SETTLE_S_MAX = 5.0
CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Plan:
    """What a subject is given to do."""

    connections: tuple[int, ...] = (1, 32, 256)
    rate: int = 500
    streams: tuple[int, ...] = (64, 512)
    bodies: bool = True
    idle: int = 2000
    chat: bool = False
    stretch: float = 1.0


PLANS = {"litellm": Plan((1, 32), 20, (8,), bodies=False, idle=100, chat=True, stretch=3.0)}


@dataclass
class Subject:
    """A proxy that runs."""

    name: str
    port: int
    process: subprocess.Popen[str] | None
    token: str = "none"  # noqa: S105 - sent to proxies that ask for none
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def plan(self) -> Plan:
        """What it is given to do."""
        return PLANS.get(self.name, Plan())

    def let(self, which: signal.Signals) -> None:
        """Stop it while it is not its turn, or let it go on: some do things of their own all the time."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, which)

    def pids(self) -> list[int]:
        """The process and its children."""
        if self.process is None:
            return []
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(int(child) for child in task.read_text(encoding="ascii").split())
        return found

    def cpu_s(self) -> float:
        """Time its threads have spent on a core."""
        total_ns = 0
        for pid in self.pids():
            for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total_ns += int(stat.read_text(encoding="ascii").split()[0])
        return total_ns / 1e9

    def rss_bytes(self) -> int:
        """Memory it holds."""
        pages = sum(
            int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) for pid in self.pids()
        )
        return pages * os.sysconf("SC_PAGE_SIZE")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench gateway", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="which to compare")
    parser.add_argument("--rounds", type=int, default=5, help="without --quick: how often each has its turn")
    options = parser.parse_args(argv)
    rounds, load_s = (3, 0.6) if options.quick else (options.rounds, 1.5)
    report = Report("gateway", ["aiohttp", "httptools", "uvloop"])
    CACHE.mkdir(parents=True, exist_ok=True)
    backend, load = compiled("backend"), compiled("load")
    wanted = [name for name in options.subjects.split(",") if not (options.quick and name == "litellm")]
    subjects: list[Subject] = []
    direct = Subject("direct", BACKEND_PORT, None)
    for ending in (signal.SIGTERM, signal.SIGINT):  # leave no stopped process behind
        signal.signal(ending, signal.default_int_handler)
    with TemporaryDirectory(prefix="bench-gateway-") as folder:
        command = _on_core(1, [backend, str(BACKEND_PORT)])
        serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            _await_line(serving, "ready")
            for name in (name for name in SUBJECTS if name in wanted):
                _start(subjects, name, Path(folder), report)
            for subject in subjects:  # once, while they are fresh: memory once taken is not given back
                subject.samples["rss_bytes_per_idle_connection"].append(_idle_cost(subject, load))
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                _round([direct, *subjects], load, load_s)
            if not options.quick:
                _most_streams([direct, *(each for each in subjects if each.name in CLIMBERS)], load)
            if "gpud" in wanted:
                _beside(subjects, Path(folder), report, load, rounds)
        finally:
            for subject in subjects:
                subject.let(signal.SIGCONT)
                end(subject.process)
            end(serving)
    _tell(report, direct, subjects)
    _compare(report, subjects)
    report.finish(options)
    return 0


def _start(subjects: list[Subject], name: str, folder: Path, report: Report) -> Subject | None:
    port = FIRST_PORT + len(subjects)
    command = proxy_command(name, port, BACKEND_PORT, folder, report)
    if command is None:
        print(f"{name} is left out: it is not installed and could not be", file=sys.stderr)
        return None
    process = subprocess.Popen(
        _on_core(0, command),
        stdout=subprocess.PIPE if name.startswith("gpud") else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    subject = Subject(name, port, process)
    subjects.append(subject)
    if name.startswith("gpud"):
        subject.token = _await_line(process, "gpud_")
    elif name == "litellm":
        subject.token = LITELLM_KEY
    await_port(port)
    subject.let(signal.SIGSTOP)
    return subject


def _round(subjects: list[Subject], load: str, load_s: float) -> None:
    """Give every subject its turn at every load."""
    for connections in (1, 32, 256):
        for subject in subjects:
            if connections in subject.plan.connections:
                _small(subject, load, connections, load_s)
    for subject in subjects:
        told, _ = _loaded(subject, load, "rate", 32, load_s * 2, str(subject.plan.rate))
        subject.samples["p50_ms"].append(told["p50_ms"])
        subject.samples["p99_ms"].append(told["p99_ms"])
    for turn in (0, 1):
        for subject in subjects:
            for streams in subject.plan.streams[turn : turn + 1]:
                _streams(subject, load, streams, load_s * 2, suffix=f"_{streams}" if turn else "")
    _bodies([subject for subject in subjects if subject.process and subject.plan.bodies], load, load_s)


def _bodies(proxies: list[Subject], load: str, load_s: float) -> None:
    for direction in ("down", "up"):
        for subject in proxies:
            told, cpu_s = _loaded(subject, load, direction, 4, load_s)
            if told["bytes"]:
                subject.samples[f"cpu_s_per_gb_{direction}"].append(cpu_s / told["bytes"] * 1e9)


def _small(subject: Subject, load: str, connections: int, load_s: float) -> None:
    told, cpu_s = _loaded(subject, load, "small", connections, load_s)
    subject.samples[f"rps_c{connections}"].append(told["done"] / told["seconds"])
    if subject.process is not None:
        subject.samples[f"cpu_s_per_10k_small_c{connections}"].append(cpu_s / told["done"] * 10_000)


def _streams(subject: Subject, load: str, streams: int, load_s: float, suffix: str = "") -> None:
    told, cpu_s = _loaded(subject, load, "sse", streams, load_s)
    subject.samples[f"sse_delay_ms_p99{suffix}"].append(told["p99_ms"])
    if subject.process is not None:
        subject.samples[f"cpu_s_per_100k_sse_chunks{suffix}"].append(cpu_s / told["done"] * 100_000)


def _most_streams(subjects: list[Subject], load: str) -> None:
    """Climb in steps until 1 event in 100 comes more than 20 ms late; a step may be tried three times."""
    climbing = list(subjects)
    until_s = time.monotonic() + LADDER_S_MAX
    for streams in range(STREAMS_STEP, STREAMS_MAX + 1, STREAMS_STEP):
        if not climbing or time.monotonic() > until_s:
            return  # each has told the highest step it has reached
        print(f"{streams} streams: {', '.join(each.name for each in climbing)}", file=sys.stderr)
        for subject in tuple(climbing):
            if any(_keeps_up(subject, load, streams) for _ in range(3)):
                subject.samples["streams_50_a_second_p99_20ms"] = [streams]
            else:
                climbing.remove(subject)


def _keeps_up(subject: Subject, load: str, streams: int) -> bool:
    told, _ = _loaded(subject, load, "sse", streams, 2.0)
    return told["p99_ms"] < STREAM_DELAY_MS_MAX and told["done"] > 0.95 * streams * 50 * told["seconds"]


def _beside(subjects: list[Subject], folder: Path, report: Report, load: str, rounds: int) -> None:
    """Measure the delay of requests and events while the rest of the daemon works on the same loop."""
    busy = _start(subjects, "gpud-beside", folder, report)
    if busy is None:
        return
    busy.let(signal.SIGCONT)
    _loaded(busy, load, "rate", 32, 2.0, str(busy.plan.rate))  # what piled up while it was stopped
    for _ in range(rounds):
        told, _ = _loaded(busy, load, "rate", 32, 3.0, str(busy.plan.rate))
        busy.samples["p50_ms_beside_load"].append(told["p50_ms"])
        busy.samples["p99_ms_beside_load"].append(told["p99_ms"])
        told, _ = _loaded(busy, load, "sse", 64, 3.0)
        busy.samples["sse_delay_ms_p99_beside_load"].append(told["p99_ms"])


def _loaded(
    subject: Subject, load: str, mode: str, connections: int, seconds: float, *more: str
) -> tuple[dict[str, float], float]:
    """Run one load; what it told, and the subject's CPU time from the end of its warm-up."""
    seconds *= subject.plan.stretch
    command = [load, mode, str(subject.port), subject.token, str(connections), str(seconds), *more]
    subject.let(signal.SIGCONT)
    process = _generating(subject, command)
    _await_line(process, "warm")
    before_s = subject.cpu_s()
    line = _await_line(process, "{")
    after_s = subject.cpu_s()
    process.wait()
    if subject.name != "gpud-beside":
        _settle(subject)
        subject.let(signal.SIGSTOP)
    told: dict[str, float] = json.loads(line)
    if told["failed"] or not told["done"]:
        print(f"{subject.name}: {mode} with {connections}: {line.strip()}", file=sys.stderr)
    told["done"] = max(told["done"], 1)
    return told, after_s - before_s


def _settle(subject: Subject) -> None:
    """Wait until a subject has dealt with what the load left behind, such as streams of clients that left."""
    until_s = time.monotonic() + SETTLE_S_MAX
    quiet = False
    while not quiet and time.monotonic() < until_s:
        before_s = subject.cpu_s()
        time.sleep(0.1)
        quiet = subject.cpu_s() - before_s < 0.01


def _generating(subject: Subject, command: list[str]) -> subprocess.Popen[str]:
    """Start the load generator, with chat completions where the subject understands nothing else."""
    environment = dict(os.environ)
    if subject.plan.chat:
        environment |= {"LOAD_CHAT": "stream" if command[1] == "sse" else "plain", "LOAD_PATH": CHAT_PATH}
    pipe = subprocess.PIPE
    return subprocess.Popen(_on_core(1, command), stdin=pipe, stdout=pipe, text=True, env=environment)


def _idle_cost(subject: Subject, load: str) -> float:
    connections = subject.plan.idle
    subject.let(signal.SIGCONT)
    before = subject.rss_bytes()
    process = _generating(subject, [load, "idle", str(subject.port), subject.token, str(connections), "0"])
    _await_line(process, "idle")
    cost = (subject.rss_bytes() - before) / connections
    process.communicate()
    subject.let(signal.SIGSTOP)
    return max(0.0, cost)


def _tell(report: Report, direct: Subject, subjects: list[Subject]) -> None:
    units = {"rps": "requests/s", "cpu": "CPU s", "rss": "bytes", "str": "streams"}
    for subject in subjects:
        if not subject.samples.get("p50_ms"):
            continue
        for metric in ("p50_ms", "p99_ms"):
            pairs = zip(subject.samples.pop(metric), direct.samples[metric], strict=True)
            subject.samples[f"added_ms_{metric[:3]}"] = [through - bare for through, bare in pairs]
        subject.samples["cpu_s_per_10k_small"] = subject.samples.pop("cpu_s_per_10k_small_c32")
    for metric in sorted({metric for subject in subjects for metric in subject.samples}):
        for subject in (*subjects, direct):
            if subject.samples.get(metric):
                report.add(metric, subject.name, units.get(metric[:3], "ms"), subject.samples[metric])


def _compare(report: Report, subjects: list[Subject]) -> None:
    """Add what gpud took over what another took, round by round, which holds where the speed drifts."""
    ours = next((subject.samples for subject in subjects if subject.name == "gpud"), {})
    for metric in sorted(metric for metric in ours if metric.startswith("cpu")):
        for subject in subjects:
            pairs = zip(ours[metric], subject.samples.get(metric, []), strict=False)
            ratios = [own / other for own, other in pairs if other]
            if ratios and subject.name != "gpud":
                report.add(f"{metric}_gpud_over", subject.name, "times", ratios)


def _on_core(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command] if core < (os.cpu_count() or 1) else command


def _await_line(process: subprocess.Popen[str], prefix: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(prefix):
            return line.strip()
    raise SystemExit(f"{process.args} ended without saying {prefix!r}")


def await_port(port: int) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def end(process: subprocess.Popen[str] | None) -> None:
    if process is not None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
