"""What RunPod's job API means in gpud's terms: policies and waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.job_request import DAY_MS, JobPolicy
from gpud.errors import InvalidRequest

if TYPE_CHECKING:
    from gpud.core.job_spec import JobNeeds

WAIT_MS = (1_000, 300_000)
_NUMBERS = {
    "executionTimeout": "execution_timeout_ms",
    "ttl": "ttl_ms",
    "priority": "priority",
    "maxAttempts": "max_attempts",
    "deadline": "deadline_ms",
}
"""RunPod's own names, then gpud's additions."""


def policy_of(said: object, needs: JobNeeds) -> JobPolicy:
    """Read `policy` of a job request; what it does not say comes from the endpoint.

    Raises:
        InvalidRequest: It is not an object, or a value in it cannot be.
    """
    values: dict[str, object] = {
        "ttl_ms": DAY_MS,
        "execution_timeout_ms": int(needs.execution_timeout_s * 1000),
        "max_attempts": needs.max_attempts,
    }
    if said is None:
        said = {}
    if not isinstance(said, dict):
        raise InvalidRequest("policy must be an object.", fields={"policy": "must be an object"})
    faults: dict[str, str] = {}
    for name, ours in _NUMBERS.items():
        value = said.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            faults[f"policy.{name}"] = "must be a whole number"
        else:
            values[ours] = int(value)
    for name, ours, kind, what in (
        ("lowPriority", "low_priority", bool, "must be true or false"),
        ("groupKey", "group_key", str, "must be text"),
    ):
        value = said.get(name)
        if isinstance(value, kind):
            values[ours] = value
        elif value is not None:
            faults[f"policy.{name}"] = what
    if faults:
        listed = "; ".join(f"{name}: {why}" for name, why in faults.items())
        raise InvalidRequest(f"The job's policy cannot be used: {listed}.", fields=faults)
    return JobPolicy(**values)  # type: ignore[arg-type]


def wait_ms_of(text: str | None, *, default: int) -> int:
    """Read the parameter `wait`, milliseconds.

    Raises:
        InvalidRequest: It is not a number in its bounds.
    """
    if text is None:
        return default
    least, most = WAIT_MS
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        raise InvalidRequest(f"wait is invalid; must be between {least} and {most}")
    return int(text)
