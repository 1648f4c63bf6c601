"""`gpud worker`: the containers that serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, age, facts, number_at, rows_at, size, state_text, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_ID = Argument("id", "Id of the worker, such as wk_….")


def _gpus(worker: Mapping[str, object]) -> str:
    uuids = value_at(worker, "gpu_uuids")
    return ",".join(str(uuid) for uuid in uuids) if isinstance(uuids, list) else ""


def _address(worker: Mapping[str, object]) -> str:
    address = text_at(worker, "address")
    return f"{address}:{text_at(worker, 'port')}" if address else ""


def _why(worker: Mapping[str, object]) -> str:
    """Why a worker is in its state; a ready one needs no reason."""
    return "" if worker.get("state") == "ready" else state_text(text_at(worker, "cause"))


COLUMNS = (
    Column("ID", lambda row: text_at(row, "id")),
    Column("ENDPOINT", lambda row: text_at(row, "endpoint")),
    Column("STATE", lambda row: state_text(text_at(row, "state")), state=True),
    Column("GPUS", _gpus, shrink=True),
    Column("ADDRESS", _address),
    Column("WHY", _why),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)


def _ls(values: Values, context: Context) -> int:
    query = {"endpoint": values.text("endpoint"), "include_gone": "true" if values.flag("all") else ""}
    rows = [*context.client.items("/v1/workers", query), *_standbys(values, context)]
    context.print_table(COLUMNS, rows, empty="No workers. They start when requests come.")
    return exits.OK


def _standbys(values: Values, context: Context) -> list[dict[str, object]]:
    """Containers that may become workers, as rows beside them."""
    found = context.client.items("/v1/standbys", {"endpoint": values.text("endpoint")})
    return [{**row, "state": "standby", "cause": text_at(row, "rung"), "address": ""} for row in found]


def _get(values: Values, context: Context) -> int:
    worker = context.client.get(path_of("v1", "workers", values.text("id")))
    if context.as_json:
        context.print_json(worker)
        return exits.OK
    exit_code = text_at(worker, "exit_code")
    context.print_text(
        facts(
            [
                ("Id", text_at(worker, "id")),
                ("Endpoint", text_at(worker, "endpoint")),
                ("State", state_text(text_at(worker, "state"), colour=context.colour)),
                ("Why", state_text(text_at(worker, "cause"))),
                ("Detail", text_at(worker, "detail")),
                ("GPUs", _gpus(worker).replace(",", "\n") or "none"),
                ("Address", _address(worker)),
                ("Container", f"gpud-{text_at(worker, 'id')}"),
                ("Exit code", exit_code),
                ("Revision", text_at(worker, "revision")),
                ("Adopted", "yes: a restarted daemon found it running" if worker.get("adopted") else ""),
                ("Created", _moment(worker, "created_at")),
                ("Started", _moment(worker, "container_started_at")),
                ("Finished", _moment(worker, "container_finished_at")),
            ],
            colour=context.colour,
        )
    )
    return exits.OK


def _moment(worker: Mapping[str, object], name: str) -> str:
    at = text_at(worker, name)
    return f"{age(at)} ago ({at})" if at else ""


STATS_COLUMNS = (
    Column("AT", lambda row: text_at(row, "at")[:19].replace("T", " ")),
    Column("CPU CORES", lambda row: f"{number_at(row, 'cpu_cores'):.2f}", right=True),
    Column("MEMORY", lambda row: size(number_at(row, "memory_bytes")), right=True),
    Column("GPU MEMORY", lambda row: size(number_at(row, "gpu_memory_bytes")), right=True),
    Column("GPU %", lambda row: f"{number_at(row, 'gpu_utilization_percent'):.0f}", right=True),
)


def _stats(values: Values, context: Context) -> int:
    span = "day" if values.flag("day") else "hour"
    page = context.client.get(path_of("v1", "workers", values.text("id"), "stats"), {"span": span})
    if context.as_json:
        context.print_json(page)
        return exits.OK
    last = max(int(values.number("last", 20)), 1)
    context.print_table(STATS_COLUMNS, rows_at(page, "items")[-last:], empty="Nothing was measured yet.")
    return exits.OK


def _stop(values: Values, context: Context) -> int:
    force = values.flag("force")
    for worker_id in values.texts("id"):
        context.client.call("DELETE", path_of("v1", "workers", worker_id) + ("?force=true" if force else ""))
        how = "is being killed" if force else "finishes its requests and stops"
        context.note(f"{worker_id} {how}.")
    return exits.OK


COMMANDS = (
    Command(
        ("worker", "ls"),
        "List the workers.",
        _ls,
        options=(
            Option("endpoint", "Only this endpoint's.", kind=grammar.ENDPOINT, metavar="NAME"),
            Option("all", "Also workers that have ended.", kind=grammar.FLAG, short="a"),
        ),
    ),
    Command(("worker", "get"), "Show one worker.", _get, (_ID,)),
    Command(
        ("worker", "stats"),
        "Show what a worker used: CPU, memory, its GPUs.",
        _stats,
        (_ID,),
        (
            Option("day", "The last day in steps of five minutes.", kind=grammar.FLAG),
            Option("last", "How many steps.", kind=grammar.WHOLE, short="n", default="20"),
        ),
        details="Times are UTC. On a shared GPU its memory is what the worker's own processes have, as far "
        "as the driver tells; how busy it is counts others' work too.",
    ),
    Command(
        ("worker", "stop"),
        "Stop workers. The endpoint starts others when its scale asks for them.",
        _stop,
        (_ID._replace(repeat=True),),
        (Option("force", "Kill at once, without waiting for running requests.", kind=grammar.FLAG),),
    ),
)
