"""`gpud status`: how the daemon is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.grammar import Command
from gpud.cli.output import facts, number_at, span, styled, text_at, value_at

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.parsing import Values

_SOURCES = {
    "nvml": "found through NVML",
    "static": "declared in gpud.toml; nothing about them is verified",
    "none": "none: NVML is not there and gpud.toml declares none",
}


def _status(_values: Values, context: Context) -> int:
    system = context.client.get("/v1/system")
    ready = system.get("ready") is True
    if context.as_json:
        context.print_json(system)
        return exits.OK if ready else exits.FAILED
    parts = value_at(system, "parts")
    parts = parts if isinstance(parts, dict) else {}
    colour = context.colour
    context.print_text(
        facts(
            [
                (
                    "State",
                    styled("ready", "green", colour=colour)
                    if ready
                    else styled("not ready", "red", colour=colour),
                ),
                *((name.capitalize(), str(fault) or "ok") for name, fault in sorted(parts.items())),
                ("GPU source", _SOURCES.get(text_at(system, "gpu_source"), text_at(system, "gpu_source"))),
                ("Up for", span(number_at(system, "uptime_s"))),
                ("Version", text_at(system, "version")),
            ],
            colour=colour,
        )
    )
    return exits.OK if ready else exits.FAILED


COMMANDS = (
    Command(
        ("status",),
        "Say how the daemon is.",
        _status,
        details="The exit code is 0 when it is ready and 1 when it is not.",
    ),
)
