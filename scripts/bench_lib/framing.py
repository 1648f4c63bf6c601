"""What the gateway, nginx and haproxy do with requests that two readers could end in different places.

Each request of the corpus in tests/contract/gateway/malformed.py goes to each subject on a connection of
its own, followed by a well-formed one for `/smuggled`. `refused` counts those after which the backend saw
nothing whole; `passed` those the backend got although they are malformed; `smuggled` those where it got the
request behind them on its own. `--differences` lists what the others pass on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_lib import gateway
from bench_lib.gateway_peers import proxy_command
from bench_lib.report import Report, add_arguments

from tests.contract.gateway.malformed import MALFORMED
from tests.contract.gateway.rig import Rig, ScriptedWorker

ANSWER_S = 0.4


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench framing", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--differences", action="store_true", help="list what each other subject passes on")
    options = parser.parse_args(argv)
    report = Report("framing", ["httptools"])
    outcomes = asyncio.run(_compare(report))
    for subject, found in outcomes.items():
        for outcome in ("refused", "passed", "smuggled"):
            count = sum(told == outcome for told in found.values())
            report.add(f"malformed_{outcome}", subject, "requests", [count])
    report.finish(options)
    if options.differences:
        for subject, found in outcomes.items():
            for name, told in found.items():
                if told != "refused":
                    print(f"{subject} {told}: {name}")
    return 0


async def _compare(report: Report) -> dict[str, dict[str, str]]:
    rig = await Rig().start()
    worker = await rig.worker()
    rig.publish(worker, public=True)
    outcomes = {"gpud": await _outcomes(rig.port, worker)}
    with TemporaryDirectory(prefix="bench-framing-") as folder:
        for i, name in enumerate(("nginx", "haproxy")):
            port = gateway.FIRST_PORT + 20 + i
            command = proxy_command(name, port, worker.port, Path(folder), report)
            if command is None:
                print(f"{name} is left out: it is not installed and could not be", file=sys.stderr)
                continue
            process = await asyncio.to_thread(_quietly, command)
            try:
                await asyncio.to_thread(gateway.await_port, port)
                outcomes[name] = await _outcomes(port, worker)
            finally:
                gateway.end(process)
    await rig.stop()
    return outcomes


def _quietly(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


async def _outcomes(port: int, worker: ScriptedWorker) -> dict[str, str]:
    return {name: await _outcome(port, worker, stream) for name, stream in MALFORMED.items()}


async def _outcome(port: int, worker: ScriptedWorker, stream: bytes) -> str:
    worker.seen.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(stream)
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(ANSWER_S):
            while await reader.read(65536):
                pass
    writer.transport.abort()
    targets = [seen.target.removeprefix("/e/llm") for seen in worker.seen]
    if targets == ["/smuggled"]:
        return "smuggled"
    return "passed" if targets else "refused"
