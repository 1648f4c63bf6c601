"""Which values are secret, and how they are kept out of what is written down."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED = b"[redacted]"
SECRET_CHARS_MIN = 6
"""Shorter values are not looked for: they occur by chance, and no text without them could be read."""

_SECRET_NAME = re.compile(
    r"token|secret|passw(or)?d|passphrase|credential|(api|access|private|signing|encryption)_?key|(^|_)(key|pat|pwd|auth)$",
    re.IGNORECASE,
)
_API_KEY = re.compile(rb"gpud_[a-z2-7]{12}_[a-z2-7]{52}")
_API_KEY_BYTES = 70


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name holds a secret, as far as its name tells."""
    return _SECRET_NAME.search(name) is not None


def secret_values(env: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The values of those variables whose names say that they are secret."""
    return tuple(dict.fromkeys(value for name, value in env if is_secret_name(name)))


class Redactor:
    """Replaces secret values wherever they occur, also as JSON, as part of a URL, and in base64.

    A value of several lines is looked for line by line. gpud's own API keys are known by their spelling.

    Args:
        values: The secrets.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        lines = {line.strip() for value in values for line in value.splitlines()}
        needles = {
            spelled
            for line in lines
            if len(line) >= SECRET_CHARS_MIN
            for spelled in (
                line.encode(),
                json.dumps(line)[1:-1].encode(),
                json.dumps(line, ensure_ascii=False)[1:-1].encode(),
                quote(line, safe="").encode(),
                base64.b64encode(line.encode()).rstrip(b"="),
            )
        }
        self._needles = tuple(sorted(needles, key=len, reverse=True))
        self.longest_bytes = max([_API_KEY_BYTES, *map(len, self._needles)])

    def touches(self, block: bytes) -> bool:
        """Whether there may be something to replace; cheap, for many lines at once."""
        return b"gpud_" in block or any(needle in block for needle in self._needles)

    def clean(self, text: bytes) -> bytes:
        """Replace every secret."""
        for needle in self._needles:
            text = text.replace(needle, REDACTED)
        return _API_KEY.sub(REDACTED, text) if b"gpud_" in text else text

    def clean_text(self, text: str) -> str:
        """Replace every secret in a text."""
        return self.clean(text.encode(errors="replace")).decode(errors="replace")
