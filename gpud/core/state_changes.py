"""What is new in one picture of a state beside an earlier one? Each thing counts as its text does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Picture = Mapping[str, Mapping[str, str]]
"""Texts of things by kind and id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanges:
    """The way from one picture to another.

    Args:
        upsert: Texts of what is new or says something else, by kind.
        remove: Ids of what is gone, by kind.
    """

    upsert: Mapping[str, tuple[str, ...]]
    remove: Mapping[str, tuple[str, ...]]


def changes_between(before: Picture, after: Picture) -> StateChanges:
    """Say what has to be put in and taken out of `before` to make `after`, by kind where there is any."""
    upsert: dict[str, tuple[str, ...]] = {}
    remove: dict[str, tuple[str, ...]] = {}
    for kind in {**before, **after}:
        old, new = before.get(kind, {}), after.get(kind, {})
        if put := tuple(text for name, text in new.items() if old.get(name) != text):
            upsert[kind] = put
        if gone := tuple(name for name in old if name not in new):
            remove[kind] = gone
    return StateChanges(upsert=upsert, remove=remove)
