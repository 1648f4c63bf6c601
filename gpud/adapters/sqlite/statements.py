"""Reads `queries.sql` and the files beside it: every statement of the store, by name."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """Split a file of `-- name: x` sections into statements.

    Raises:
        ValueError: A name stands twice.
    """
    _preamble, *parts = _NAME.split(text)
    statements: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in statements:
            raise ValueError(f"the statements' files name {name} twice")
        lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
        statements[name] = "\n".join(lines).strip().rstrip(";")
    return statements


_FILES = ("queries.sql", "jobs.sql")
_TEXTS = (resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8") for name in _FILES)

SQL = parse("\n".join(_TEXTS))
"""Statement text by name."""

ROWS_MAX = 64
_ROW = re.compile(r"VALUES\s*(\([^()]*\))")


@lru_cache(maxsize=256)
def of_rows(name: str, count: int) -> str:
    """Spell a statement whose `VALUES` has one row for several of them."""
    return _ROW.sub(lambda found: "VALUES " + ", ".join([found[1]] * count), SQL[name], count=1)


def execute_rows(connection: sqlite3.Connection, name: str, rows: Sequence[tuple[object, ...]]) -> int:
    """Run a statement of `VALUES` for many rows; returns how many it changed.

    A few statements of many rows each: one of one row for each row takes twice as long, and lets go of the
    interpreter's lock as often as there are rows, to get it back when the loop's thread is done with it.
    """
    changed = at = 0
    size = ROWS_MAX
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2  # few sizes, so that each is prepared once
        params = tuple(chain.from_iterable(rows[at : at + size]))
        changed += connection.execute(of_rows(name, size), params).rowcount
        at += size
    return changed
