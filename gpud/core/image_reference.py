"""Is a text an image reference, as engines and registries spell them?

What is none must not reach an engine: it becomes a part of a path there, where `../` leads elsewhere.
"""

from __future__ import annotations

import re

_NAME_CHARS_MAX = 255
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?P<tag>:\w[\w.-]{0,127})?"
    r"(?P<digest>@[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,128})?",
    re.ASCII,
)
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


def is_image_id(text: str) -> bool:
    """Whether this is an image's id rather than a name."""
    return _IMAGE_ID.fullmatch(text) is not None


def is_image_reference(text: str) -> bool:
    """Whether this is `[host/]repository[:tag][@digest]`, or an image's id."""
    found = _REFERENCE.fullmatch(text)
    return is_image_id(text) or (found is not None and len(found["name"]) <= _NAME_CHARS_MAX)
