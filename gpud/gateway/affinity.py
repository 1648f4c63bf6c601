"""Which requests should meet the same worker again? A key made of how their prompt begins.

A model server keeps what it computed for a prompt's beginning. The later turns of a conversation begin as its
first one did, so the key is made of everything up to the first message of the user, or of the beginning of a
plain prompt. It is only a hint: it decides among workers that the balancing rule holds for equal.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.routing import Route

PROMPT_BYTES_MAX = 8 * 1024
"""Most of a prompt that is looked at."""
PLAIN_BYTES = 256
"""How much of a prompt without messages makes the key."""

_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
_PROMPT = re.compile(rb'"(?:messages|prompt|input)"\s*:\s*')
_FROM_USER = re.compile(rb'"role"\s*:\s*"user"')
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)


def prompt_affinity(path: str, body: bytes, route: Route) -> bytes:
    """Make the key of a request.

    Args:
        path: Of the worker's API.
        body: Its beginning, as much as there is.
        route: Where it goes.

    Returns:
        Empty where there is nothing to choose or no prompt.
    """
    if len(route.workers) == 1 or not path.startswith(_PATHS):
        return b""
    found = _PROMPT.search(body)
    if found is None:
        return b""
    value = body[found.end() : found.end() + PROMPT_BYTES_MAX]
    prefix = _to_first_of_user(value) if value.startswith(b"[") else value[:PLAIN_BYTES]
    return hashlib.blake2b(prefix, digest_size=16).digest()


def _to_first_of_user(messages: bytes) -> bytes:
    """Cut a list of messages after the first one of the user; whole when there is none that ends."""
    depth = began = 0
    for token in _TOKEN.finditer(messages):
        match token.group():
            case b"{" | b"[":
                depth += 1
                if depth == 2:
                    began = token.start()
            case b"}" | b"]":
                depth -= 1
                if depth == 1 and _FROM_USER.search(messages, began, token.end()):
                    return messages[: token.end()]
                if depth == 0:
                    return messages[: token.end()]
            case _:
                pass
    return messages
