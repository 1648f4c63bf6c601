"""How API keys are spelled, and what their scopes allow.

A key is shown once as `gpud_<12 characters>_<52 characters>`: the first part names it, the second
is its secret, 32 random bytes in base32. One prefix and one alphabet let scanners find leaked keys.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gpud.core.ids import ENDPOINT_NAME, KeyId

if TYPE_CHECKING:
    from collections.abc import Iterable

ADMIN = "admin"
READ = "read"
WRITE = "write"
METRICS = "metrics"
EXEC = "exec"
"""Run commands inside workers: whoever may do that reads their secrets and changes what they serve."""
ANY = "any"
"""What every valid key may do, such as seeing its own jobs. Not a scope that a key can have."""
INVOKE_PREFIX = "invoke:"
INVOKE_ANY = "invoke:*"

SECRET_BYTES = 32
_ID_CHARS = 12
_TOKEN = re.compile(r"gpud_([a-z2-7]{12})_([a-z2-7]{52})\Z")
_KEY_PREFIX = "key_"


def key_id_from(random_id: str) -> KeyId:
    """Shorten a fresh `key_…` id to what a token carries."""
    return KeyId(random_id[: len(_KEY_PREFIX) + _ID_CHARS])


def format_token(key_id: KeyId, secret: str) -> str:
    """Spell the token of a key; the only place where id and secret meet."""
    return f"gpud_{key_id.removeprefix(_KEY_PREFIX)}_{secret}"


def parse_token(token: str) -> tuple[KeyId, str] | None:
    """Split a token into the key's id and its secret; None when it is not spelled like one."""
    match = _TOKEN.match(token)
    return (KeyId(_KEY_PREFIX + match[1]), match[2]) if match else None


def invoke_scope(endpoint: str) -> str:
    """Name the scope that lets a key call one endpoint."""
    return INVOKE_PREFIX + endpoint


def scope_fault(scope: str) -> str:
    """Say what is wrong with a scope; empty when it is one."""
    if scope in (ADMIN, READ, WRITE, METRICS, EXEC, INVOKE_ANY):
        return ""
    if scope.startswith(INVOKE_PREFIX) and ENDPOINT_NAME.match(scope.removeprefix(INVOKE_PREFIX)):
        return ""
    return "must be admin, read, write, metrics, exec, invoke:* or invoke:<endpoint>"


def allows(scopes: Iterable[str], wanted: str) -> bool:
    """Whether scopes cover a wanted one: `admin` covers all, `invoke:*` every endpoint, others themselves."""
    held = frozenset(scopes)
    if ADMIN in held or wanted in held or wanted == ANY:
        return True
    return wanted.startswith(INVOKE_PREFIX) and INVOKE_ANY in held
