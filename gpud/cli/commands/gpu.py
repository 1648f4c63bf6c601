"""`gpud gpu`: the box's GPUs, who holds them, and taking one out of use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.client import path_of
from gpud.cli.grammar import Argument, Command
from gpud.cli.output import Column, mib, number_at, state_text, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_UUID = Argument("uuid", "UUID of the GPU, or the start of it that fits no other.", repeat=True)


def _memory(gpu: Mapping[str, object]) -> str:
    total = mib(number_at(gpu, "memory_mib"))
    if value_at(gpu, "used_mib") is None:
        return total
    return f"{number_at(gpu, 'used_mib') / 1024:.1f} of {total}"


def _holders(gpu: Mapping[str, object], name: str) -> str:
    """Who has it: one, or those that share it, each once."""
    sharers = value_at(gpu, "shared_by")
    if not isinstance(sharers, list) or not sharers:
        return text_at(gpu, name)
    return ", ".join(dict.fromkeys(text_at(share, name) for share in sharers))


COLUMNS = (
    Column("#", lambda row: text_at(row, "index"), right=True),
    Column("UUID", lambda row: text_at(row, "uuid"), shrink=True),
    Column("NAME", lambda row: text_at(row, "name"), shrink=True),
    Column("MEMORY", _memory, right=True),
    Column("HEALTH", lambda row: state_text(text_at(row, "health")), state=True),
    Column("ENDPOINT", lambda row: _holders(row, "endpoint")),
    Column("WORKER", lambda row: _holders(row, "worker_id")),
)


def _ls(_values: Values, context: Context) -> int:
    rows = context.client.items("/v1/gpus")
    context.print_table(
        COLUMNS,
        rows,
        empty="No GPUs. gpud status says which source was asked; [[gpus.static]] in gpud.toml declares some.",
    )
    unwell = [row for row in rows if text_at(row, "reason")]
    if unwell and not context.as_json:
        told = [
            f"{text_at(row, 'uuid')} {text_at(row, 'health')}: {text_at(row, 'reason')}" for row in unwell
        ]
        context.print_text("\n".join(["", *told]))
    return exits.OK


def _cordon(values: Values, context: Context) -> int:
    return _set(values, context, "cordon", "is out of use; a worker on it finishes its requests")


def _uncordon(values: Values, context: Context) -> int:
    return _set(values, context, "uncordon", "is in use again")


def _set(values: Values, context: Context, verb: str, told: str) -> int:
    from gpud.cli.matching import only_match  # noqa: PLC0415 - listings do without

    known = [text_at(gpu, "uuid") for gpu in context.client.items("/v1/gpus")]
    for given in values.texts("uuid"):
        uuid = only_match(given, known, what="GPU", listing="gpud gpu ls")
        context.client.call("POST", path_of("v1", "gpus", uuid, verb))
        context.note(f"{uuid} {told}.")
    return exits.OK


COMMANDS = (
    Command(("gpu", "ls"), "List the GPUs and who holds them.", _ls),
    Command(("gpu", "cordon"), "Take GPUs out of use.", _cordon, (_UUID,)),
    Command(("gpu", "uncordon"), "Bring GPUs back into use, whatever their health was.", _uncordon, (_UUID,)),
)
