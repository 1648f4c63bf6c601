"""In whose words does a path answer? RunPod's and OpenAI's clients expect errors in forms of their own."""

from __future__ import annotations

import re
from enum import Enum

_RUNPOD = re.compile(r"/v2/")
_OPENAI_ON_JOBS = re.compile(r"/v2/[^/]+/openai/")


class Dialect(Enum):
    """A form of errors."""

    GPUD = "gpud"
    """A problem document, RFC 9457."""
    RUNPOD = "runpod"
    """An object with `error`, a text."""
    OPENAI = "openai"
    """An object with `error`, an object."""


def dialect_of(path: str) -> Dialect:
    """Say which one a path speaks: one of a request, or the pattern of an operation."""
    if _OPENAI_ON_JOBS.match(path):
        return Dialect.OPENAI
    return Dialect.RUNPOD if _RUNPOD.match(path) else Dialect.GPUD
