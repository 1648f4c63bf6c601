"""What a check of the doctor says: how bad it is, what was found, why that matters, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

GIB = 1 << 30


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check says.

    Args:
        check: Its name, which stays the same from release to release.
        verdict: How bad it is.
        found: What was seen, as a short sentence.
        why: Why that matters; empty when all is well.
        todo: What to do about it; empty when there is nothing to do.
    """

    check: str
    verdict: Verdict
    found: str
    why: str = ""
    todo: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def skipped(check: str, found: str, todo: str = "") -> Finding:
    """It could not be looked at, or does not concern this box."""
    return Finding(check=check, verdict=Verdict.SKIPPED, found=found, todo=todo)


def warning(check: str, found: str, *, why: str, todo: str) -> Finding:
    """It works, and will cost something or break one day."""
    return Finding(check=check, verdict=Verdict.WARNING, found=found, why=why, todo=todo)


def failed(check: str, found: str, *, why: str, todo: str) -> Finding:
    """It does not work."""
    return Finding(check=check, verdict=Verdict.FAILED, found=found, why=why, todo=todo)


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are of each verdict."""
    totals = {verdict.value: 0 for verdict in Verdict}
    for finding in findings:
        totals[finding.verdict.value] += 1
    return totals


def size(count_bytes: float) -> str:
    """Bytes for people."""
    return f"{count_bytes / GIB:.1f} GiB" if count_bytes >= GIB else f"{count_bytes / (1 << 20):.0f} MiB"
