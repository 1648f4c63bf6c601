"""Long decisions cut into pieces, so that whoever asks for one may let others work between two of them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Pieces: TypeAlias = Generator[None, None, T]
"""Each `next` does one piece; the answer is what it returns at its end, and depends on no pause between."""

PIECE = 16
"""How many of what is looked at briefly make a piece; what takes longer is a piece of its own."""


def at_once(pieces: Pieces[T]) -> T:
    """Do all that is left without a pause."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            answer: T = end.value
            return answer
