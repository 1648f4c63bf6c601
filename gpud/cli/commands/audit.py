"""`gpud audit`: checks that the books hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.grammar import Command

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _audit(_values: Values, context: Context) -> int:
    report = context.client.get("/v1/audit")
    ok = report.get("ok") is True
    breaches = report.get("breaches")
    if context.as_json:
        context.print_json(report)
    elif ok:
        context.print_text("The books hold: every lease and every metered stretch fits the others.")
    else:
        listed = breaches if isinstance(breaches, list) else []
        context.print_text("\n".join(["The books do not hold:", *(f"  {breach}" for breach in listed)]))
    return exits.OK if ok else exits.FAILED


COMMANDS = (
    Command(
        ("audit",),
        "Check that the books of leases and metering hold.",
        _audit,
        details="The exit code is 1 when an invariant is broken; each breach is told on a line.",
    ),
)
