"""Which texts may stand as the path of a request that gpud makes?"""

from __future__ import annotations

REQUEST_PATH = "must start with '/' and hold only printable ASCII"
"""What a person is told of one that may not."""


def is_request_path(path: str) -> bool:
    """Whether it may be written into a request's first line as it is: a space would end it there."""
    return path.startswith("/") and path.isascii() and path.isprintable() and " " not in path
