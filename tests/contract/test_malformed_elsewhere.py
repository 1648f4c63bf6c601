"""The malformed corpus through nginx and haproxy: what they pass on and gpud refuses is written down."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.core.ids import WorkerId
from tests.contract.gateway import proxies
from tests.contract.gateway.malformed import MALFORMED
from tests.contract.gateway.rig import ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LANES = 40
ANSWER_S = 1.0
"""How long a proxy may be silent about a request before that counts as refusing it."""
_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "malformed-requests.md"


@contextlib.asynccontextmanager
async def _lanes() -> AsyncIterator[list[ScriptedWorker]]:
    workers = [await ScriptedWorker(WorkerId(f"wk_{i}")).start() for i in range(LANES)]
    yield workers
    for worker in workers:
        await worker.stop()


async def _outcomes(ports: list[int], workers: list[ScriptedWorker]) -> dict[str, str]:
    todo = list(MALFORMED.items())
    found: dict[str, str] = {}

    async def work(port: int, worker: ScriptedWorker) -> None:
        while todo:
            name, stream = todo.pop()
            found[name] = await _outcome(port, worker, stream)

    await asyncio.gather(*(work(port, worker) for port, worker in zip(ports, workers, strict=True)))
    return found


async def _outcome(port: int, worker: ScriptedWorker, stream: bytes) -> str:
    """Say what the worker got: nothing whole, the malformed request, or only the one hidden behind it."""
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


def _documented(subject: str) -> tuple[str, dict[str, str]]:
    """Read the page: the version it speaks of, and what the subject does with what gpud refuses."""
    text = _PAGE.read_text(encoding="utf-8")
    version = re.search(rf"^## {subject} ([0-9.]+)$", text, re.MULTILINE)
    assert version is not None
    section = text[version.end() :].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.+)` \| (passed|smuggled|passed at times) \|$", section, re.MULTILINE)
    return version.group(1), {name.replace("\\|", "|"): outcome for name, outcome in rows}


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param("nginx", marks=proxies.needs_nginx),
        pytest.param("haproxy", marks=proxies.needs_haproxy),
    ],
)
async def test_other_proxies_pass_on_just_what_is_written_down(subject: str, tmp_path: Path) -> None:
    version, documented = _documented(subject)
    told = await asyncio.to_thread(
        subprocess.run, [subject, "-v"], capture_output=True, text=True, check=True
    )
    if version not in told.stdout + told.stderr:
        pytest.skip(f"the page speaks of {subject} {version}, and another version is installed")
    ports = proxies.free_ports(LANES)
    async with _lanes() as workers:
        pairs = [(port, worker.port) for port, worker in zip(ports, workers, strict=True)]
        if subject == "nginx":
            running = proxies.nginx(tmp_path, proxies.nginx_servers(pairs), ports[0])
        else:
            running = proxies.haproxy(tmp_path, proxies.haproxy_sections(pairs), ports[0])
        async with running:
            outcomes = await _outcomes(ports, workers)
    at_times = {name for name, outcome in documented.items() if outcome == "passed at times"}
    assert {outcomes[name] for name in at_times} <= {"passed", "refused"}
    unlike_gpud = {name: outcome for name, outcome in outcomes.items() if outcome != "refused"}
    assert {name: unlike_gpud[name] for name in unlike_gpud if name not in at_times} == {
        name: documented[name] for name in documented if name not in at_times
    }
