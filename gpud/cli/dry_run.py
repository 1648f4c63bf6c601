"""Tells what a deploy would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.output import mib, number_at, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context

_CHANGES = {
    "create": "would be created",
    "restart": "would have its workers replaced",
    "rescale": "would change without any restart",
    "none": "is as it should be; nothing would change",
}


def show(context: Context, spec: Mapping[str, object]) -> int:
    """Ask the daemon, and print its answer."""
    found = context.client.call("POST", "/v1/dry-runs", spec)
    if context.as_json:
        context.print_json(found)
    else:
        context.print_text("\n".join(told(found)))
    return exits.OK


def told(found: Mapping[str, object]) -> list[str]:
    """A forecast in sentences."""
    name, change = text_at(found, "name"), text_at(found, "change")
    pin = text_at(found, "image_pin").rpartition("@")[2][:19]
    lines = [f"{name} {_CHANGES.get(change, change)}: revision {text_at(found, 'revision')}, image {pin}"]
    if not value_at(found, "image_present"):
        lines.append("The image would be pulled first.")
    present = int(number_at(found, "workers_present"))
    if present:
        lines.append(f"{present} of its workers run already.")
    lines += [_placed(placement) for placement in _rows(found, "placements")]
    lines += [_leaves(leaver) for leaver in _rows(found, "evictions")]
    wait = value_at(found, "wait")
    if isinstance(wait, dict):
        lines += [text_at(wait, "detail"), text_at(wait, "remedy")]
    lines.append(_expected(found))
    return lines


def _rows(found: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    rows = value_at(found, name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _placed(placement: Mapping[str, object]) -> str:
    uuids = value_at(placement, "gpu_uuids")
    if not isinstance(uuids, list) or not uuids:
        return "A worker would start at once, without a GPU."
    part = f"{mib(number_at(placement, 'memory_mib'))} of " if number_at(placement, "memory_mib") else ""
    return f"A worker would start at once on {part}{', '.join(map(str, uuids))}."


def _leaves(leaver: Mapping[str, object]) -> str:
    when = f"in {number_at(leaver, 'in_s'):.0f} s" if number_at(leaver, "in_s") else "at once"
    busy = ", and finishes its requests first" if value_at(leaver, "busy") else ""
    return f"{text_at(leaver, 'worker_id')} of {text_at(leaver, 'endpoint')} would give way {when}{busy}."


def _expected(found: Mapping[str, object]) -> str:
    if not number_at(found, "workers"):
        return "It is paused: max_workers is 0."
    if value_at(found, "expected_ready_in_s") is None:
        return "Nobody can tell when a first worker would be ready."
    known = "as it usually takes" if value_at(found, "cold_start_measured") else "no start of it was seen yet"
    in_s = number_at(found, "expected_ready_in_s")
    return "A worker is ready now." if not in_s else f"A first worker is expected in {in_s:.0f} s ({known})."
