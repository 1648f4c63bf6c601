"""Reads `queries.sql` and the files beside it: every statement of the store, by name."""

from __future__ import annotations

import re
from importlib import resources

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
