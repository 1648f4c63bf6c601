"""Workers of a revision that leaves: last choice, and every answer is counted by its worker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.ids import EndpointName
from gpud.core.routing import RoutingTable
from tests.contract.gateway.rig import route

if TYPE_CHECKING:
    import asyncio

    from tests.contract.gateway.rig import Rig, ScriptedWorker, Seen

NAME = EndpointName("llm")


async def _wrong(
    _worker: ScriptedWorker, _seen: Seen, _in: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(b"HTTP/1.1 500 Wrong\r\nContent-Length: 0\r\n\r\n")


async def test_a_spare_worker_gets_a_request_only_when_no_other_has_a_free_slot(rig: Rig) -> None:
    new, old = await rig.worker(1), await rig.worker(2)
    shown = route(new, old, name="llm", concurrency=1)
    workers = tuple(
        replace(each, spare=each.worker_id == shown.workers[1].worker_id) for each in shown.workers
    )
    rig.dispatcher.publish(RoutingTable({NAME: replace(shown, workers=workers)}))
    for _ in range(4):
        assert (await rig.get("/e/llm/")).status == 200
    assert (len(new.seen), len(old.seen)) == (4, 0)
    taken = rig.dispatcher.acquire_nowait(NAME, None)  # type: ignore[arg-type]
    assert (await rig.get("/e/llm/")).status == 200
    assert (len(new.seen), len(old.seen)) == (4, 1)
    taken.release()  # type: ignore[union-attr]


async def test_answers_and_errors_are_counted_by_worker_and_taken_once(rig: Rig) -> None:
    good, wrong = await rig.worker(1), await rig.worker(2, answer=_wrong)
    rig.publish(good, wrong)
    for _ in range(6):
        await rig.get("/e/llm/")
    answers = rig.dispatcher.take_load(NAME).answers
    assert sorted((all_, bad) for _, all_, bad in answers) == [(3, 0), (3, 3)]
    assert rig.dispatcher.take_load(NAME).answers == ()
