"""`gpud status`: how the daemon is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.grammar import Command
from gpud.cli.output import facts, number_at, span, styled, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_SOURCES = {
    "nvml": "found through NVML",
    "static": "declared in gpud.toml; nothing about them is verified",
    "none": "none: NVML is not there and gpud.toml declares none",
}
_PARTS = {"store": "Store", "engine": "Engine", "gpus": "GPUs"}


def _status(_values: Values, context: Context) -> int:
    system = context.client.get("/v1/system")
    ready = system.get("ready") is True
    if context.as_json:
        context.print_json(system)
    else:
        context.print_text(_told(system, ready=ready, colour=context.colour))
    return exits.OK if ready else exits.FAILED


def _told(system: Mapping[str, object], *, ready: bool, colour: bool) -> str:
    parts = value_at(system, "parts")
    source = text_at(system, "gpu_source")
    state = _well("ready", colour=colour) if ready else _unwell("not ready", colour=colour)
    pairs = [("State", state)]
    for name, fault in parts.items() if isinstance(parts, dict) else ():
        told = _unwell(str(fault), colour=colour) if fault else _well("ok", colour=colour)
        pairs.append((_PARTS.get(str(name), str(name)), told))
    gateway = value_at(system, "gateway")
    if isinstance(gateway, dict):
        pairs += _gateway_told(gateway)
    pairs += [
        ("GPU source", _SOURCES.get(source, source)),
        ("Up for", span(number_at(system, "uptime_s"))),
        ("Version", text_at(system, "version")),
    ]
    return facts(pairs, colour=colour)


def _gateway_told(gateway: Mapping[str, object]) -> list[tuple[str, str]]:
    statuses = value_at(gateway, "statuses")
    answers = [
        f"{count} with {status}" for status, count in (statuses if isinstance(statuses, dict) else {}).items()
    ]
    now = f"{number_at(gateway, 'connections'):g} connections, {number_at(gateway, 'requests'):g} requests"
    lag = f"{number_at(gateway, 'loop_lag_ms_max'):g} ms at worst in the last minute"
    return [("Gateway", now), ("Answered", ", ".join(answers)), ("Loop lag", lag)]


def _well(text: str, *, colour: bool) -> str:
    return styled(text, "green", colour=colour)


def _unwell(text: str, *, colour: bool) -> str:
    return styled(text, "red", colour=colour)


COMMANDS = (
    Command(
        ("status",),
        "Say how the daemon is.",
        _status,
        details="The exit code is 0 when it is ready and 1 when it is not.",
    ),
)
