from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.pieces import at_once
from gpud.fleet.breaks import Breaks
from tests.unit.fleet.virtual import virtual

if TYPE_CHECKING:
    from gpud.core.pieces import Pieces


def _count(pieces: int) -> Pieces[int]:
    for _ in range(pieces):
        yield
    return pieces


async def _turns_of_others(breaks: Breaks) -> int:
    """How often another task ran while twenty pieces were done."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    breaks.begin()
    assert await breaks.through(_count(20)) == 20
    await breaks.rest()
    task.cancel()
    return turns


def test_others_have_a_turn_between_any_two_pieces_when_breaks_are_always_due() -> None:
    assert virtual(_turns_of_others(Breaks(every_s=0.0))) >= 20


def test_no_break_is_taken_before_its_time() -> None:
    assert virtual(_turns_of_others(Breaks(every_s=3600.0))) == 0


def test_pieces_done_at_once_give_the_same_answer() -> None:
    assert at_once(_count(20)) == 20
