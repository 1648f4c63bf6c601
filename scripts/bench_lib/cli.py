"""What commands cost beside bare Python: fresh processes, against the API on fakes on a Unix socket.

The subjects take turns, so that the machine's other work falls on all alike; CPU time stands beside wall
time, because it suffers less from that work. Their bounds are 30 ms for
`gpud --help` and 80 ms for a listing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aiohttp import web
from bench_lib.report import Report, add_arguments

from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName
from gpud.settings import LogSettings
from gpud.telemetry import set_up_logging
from tests.contract.api_site import running_api

BIN = Path(sys.executable).parent
ROUNDS, QUICK_ROUNDS = 20, 6
ENDPOINTS = 3

Samples = dict[str, dict[str, list[float]]]

SUBJECTS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import json, socket": [sys.executable, "-c", "import json, socket"],
    "import argparse": [sys.executable, "-c", "import json, socket, argparse"],
    "import rich.table": [sys.executable, "-c", "import json, socket, rich.console, rich.table"],
    "gpud --help": [str(BIN / "gpud"), "--help"],
    "gpud endpoint ls": [str(BIN / "gpud"), "endpoint", "ls"],
    "gpud worker ls --json": [str(BIN / "gpud"), "worker", "ls", "--json"],
    "python -m gpud endpoint ls": [sys.executable, "-m", "gpud", "endpoint", "ls"],
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench cli", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    report = Report("cli", ["aiohttp", "rich"])
    for metric, subjects in asyncio.run(_measured(rounds)).items():
        for subject, samples in subjects.items():
            report.add(metric, subject, "ms", samples)
    report.finish(options)
    return 0


async def _measured(rounds: int) -> Samples:
    set_up_logging(LogSettings(level="error"))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/api.sock"
        async with running_api() as site:
            for number in range(ENDPOINTS):
                name = EndpointName(f"endpoint-{number}")
                await site.control.deploy(EndpointSpec(name=name, image="repository/image:tag"))
            runner = site.client.server.runner
            assert runner is not None
            unix = web.UnixSite(runner, path)
            await unix.start()
            try:
                return await asyncio.to_thread(_rounds, rounds, {**os.environ, "GPUD_SOCKET": path})
            finally:
                await unix.stop()


def _rounds(rounds: int, environment: dict[str, str]) -> Samples:
    samples: Samples = {
        metric: {subject: [] for subject in SUBJECTS} for metric in ("process_ms", "process_cpu_ms")
    }
    for round_number in range(rounds + 1):
        for subject, command in SUBJECTS.items():
            cpu_before_s, began_s = _children_cpu_s(), time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            took_s, cpu_s = time.perf_counter() - began_s, _children_cpu_s() - cpu_before_s
            if round_number:  # The first round fills the page cache and writes compiled modules.
                samples["process_ms"][subject].append(took_s * 1000)
                samples["process_cpu_ms"][subject].append(cpu_s * 1000)
    return samples


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
