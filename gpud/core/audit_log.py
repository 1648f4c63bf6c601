"""What is kept of a call that changes something: who, from where, what, and the object before and after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum


class Audited(StrEnum):
    """Whether an operation's calls are written to the audit log."""

    ALWAYS = "always"
    JOBS = "jobs"
    """Only where jobs are audited too; the job itself says who sent it."""
    NEVER = "never"
    """It changes nothing that anybody declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One call, at its end.

    Args:
        at_ms: Unix wall time of its end.
        caller: Id of the API key, or `local` for the administrator at the Unix socket.
        source: Where it came from: an address, or `uid 0` at the Unix socket.
        operation: `operationId` of the API.
        path: Without what stands behind the `?`.
        subject: What it was about, such as `endpoints/llm`; empty for calls about no single thing.
        status: It was answered with.
        before: Digest of the thing before the call; empty when there was none.
        after: The same after it.
        detail: What operation and subject do not say, such as the command of a session and how it ended.
        seq: Orders entries and has no gaps while none is deleted; 0 until it is written.
    """

    at_ms: int
    request_id: str
    caller: str
    source: str
    operation: str
    method: str
    path: str
    subject: str
    status: int
    before: str
    after: str
    detail: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries are asked for; what is empty or 0 does not filter.

    Args:
        until_ms: First moment after the period.
    """

    caller: str = ""
    operation: str = ""
    subject: str = ""
    since_ms: int = 0
    until_ms: int = 0


def digest_of(facts: object | None) -> str:
    """SHA-256 over the canonical JSON of what somebody declared; empty for nothing."""
    if facts is None:
        return ""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode(errors="backslashreplace")).hexdigest()
