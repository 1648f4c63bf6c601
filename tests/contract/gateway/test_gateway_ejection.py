from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.ejection import FAILURES_MAX

if TYPE_CHECKING:
    import asyncio

    from tests.contract.gateway.rig import Rig, ScriptedWorker, Seen


async def _busy(
    _worker: ScriptedWorker, _seen: Seen, _in: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")


async def _wrong(
    _worker: ScriptedWorker, _seen: Seen, _in: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(b"HTTP/1.1 500 Wrong\r\nContent-Length: 0\r\n\r\n")


async def test_a_worker_that_keeps_failing_is_left_out(rig: Rig) -> None:
    good, bad = await rig.worker(1), await rig.worker(2, answer=_busy)
    rig.publish(good, bad)

    statuses = [(await rig.get("/e/llm/")).status for _ in range(4 * FAILURES_MAX)]

    assert statuses.count(503) == FAILURES_MAX
    assert len(bad.seen) == FAILURES_MAX


async def test_an_applications_own_errors_leave_nobody_out(rig: Rig) -> None:
    good, wrong = await rig.worker(1), await rig.worker(2, answer=_wrong)
    rig.publish(good, wrong)

    statuses = [(await rig.get("/e/llm/")).status for _ in range(4 * FAILURES_MAX)]

    assert statuses.count(500) == 2 * FAILURES_MAX


async def test_the_only_worker_is_never_left_out(rig: Rig) -> None:
    bad = await rig.worker(1, answer=_busy)
    rig.publish(bad)

    for _ in range(2 * FAILURES_MAX):
        await rig.get("/e/llm/")

    assert len(bad.seen) == 2 * FAILURES_MAX
