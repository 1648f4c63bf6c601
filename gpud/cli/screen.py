"""Makes what others wrote harmless where it is shown: names, errors, outputs may hold terminal sequences."""

from __future__ import annotations

import json
import re

from gpud.core.plain_text import plain

_OWN = re.compile("(\x1b\\[(?:[012]|3[1-4])m)")
"""Colours of gpud's own (`gpud.cli.output`); from anybody else they are no more than colours."""
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON may hold as it is, and a terminal would obey or could not show."""


def harmless(text: str) -> str:
    """Take out of lines what a terminal would obey; line ends, tabs and gpud's own colours stay."""
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(piece if _OWN.fullmatch(piece) else plain(piece) for piece in _OWN.split(line))


def json_text(document: object, *, indent: int | None = None) -> str:
    """A document as JSON that means the same and holds nothing that a terminal would obey."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
