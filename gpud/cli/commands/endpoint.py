"""`gpud endpoint`: what is deployed, how it is, and its scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.commands import starts
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, age, facts, mib, number_at, rows_at, span, state_text, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_NAME = Argument("name", "Name of the endpoint.", kind=grammar.ENDPOINT)


def ready_workers(endpoint: Mapping[str, object]) -> str:
    """How many workers are ready, of how many that are wanted."""
    ready = sum(1 for worker in rows_at(endpoint, "workers") if worker.get("state") == "ready")
    return f"{ready}/{number_at(endpoint, 'desired'):g}"


def scale_range(endpoint: Mapping[str, object]) -> str:
    """The bounds of the scale: `0-4`."""
    low, high = (number_at(endpoint, "spec", "scale", name) for name in ("min_workers", "max_workers"))
    return f"{low:g}-{high:g}"


COLUMNS = (
    Column("NAME", lambda row: text_at(row, "name")),
    Column("STATE", lambda row: state_text(text_at(row, "condition")), state=True),
    Column("READY", ready_workers, right=True),
    Column("SCALE", scale_range, right=True),
    Column("RUNNING", lambda row: text_at(row, "in_flight"), right=True),
    Column("WAITING", lambda row: text_at(row, "waiting"), right=True),
    Column("GPUS", lambda row: text_at(row, "spec", "gpus", "count"), right=True),
    Column("IMAGE", lambda row: text_at(row, "image", "reference"), shrink=True),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)


def _ls(_values: Values, context: Context) -> int:
    rows = context.client.items("/v1/endpoints")
    context.print_table(COLUMNS, rows, empty="No endpoints. Make one: gpud deploy IMAGE --name NAME")
    return exits.OK


def _get(values: Values, context: Context) -> int:
    endpoint = context.client.get(path_of("v1", "endpoints", values.text("name")))
    if context.as_json:
        context.print_json(endpoint)
        return exits.OK
    context.print_text(describe(endpoint, colour=context.colour))
    workers = rows_at(endpoint, "workers")
    if workers:
        from gpud.cli.commands.worker import COLUMNS as WORKER_COLUMNS  # noqa: PLC0415 - only for its table

        context.print_text("")
        context.print_table(WORKER_COLUMNS, workers, empty="")
    return exits.OK


def describe(endpoint: Mapping[str, object], *, colour: bool = False) -> str:
    """Everything a person wants to know about an endpoint, without its workers."""
    spec = value_at(endpoint, "spec")
    spec = spec if isinstance(spec, dict) else {}
    pull = value_at(endpoint, "pull")
    return facts(
        [
            ("Name", text_at(endpoint, "name")),
            ("State", state_text(text_at(endpoint, "condition"), colour=colour)),
            ("Waits for", "\n".join(text_at(wait, "detail") for wait in rows_at(endpoint, "waits"))),
            ("Last error", text_at(endpoint, "last_error")),
            ("Pull", _pull_text(pull) if isinstance(pull, dict) else ""),
            ("Image", text_at(endpoint, "image", "reference")),
            ("Pinned to", text_at(endpoint, "image", "pin")),
            ("Command", " ".join(str(word) for word in spec.get("command") or [])),
            ("Port", text_at(spec, "port")),
            ("Health", text_at(spec, "health", "path")),
            ("GPUs", _gpus_text(spec)),
            ("Scale", _scale_text(spec)),
            ("Workers", f"{ready_workers(endpoint)} ready ({text_at(endpoint, 'scale_reason')})"),
            ("Load", f"{text_at(endpoint, 'in_flight')} running, {text_at(endpoint, 'waiting')} waiting"),
            ("Aliases", ", ".join(str(alias) for alias in spec.get("aliases") or [])),
            ("Public", "yes: requests need no key" if spec.get("public") else ""),
            ("Revision", text_at(endpoint, "revision")),
            ("Rollout", _rollout_text(endpoint)),
            ("Created", f"{age(text_at(endpoint, 'created_at'))} ago"),
            ("Changed", f"{age(text_at(endpoint, 'updated_at'))} ago"),
        ],
        colour=colour,
    )


def _pull_text(pull: Mapping[str, object]) -> str:
    from gpud.cli.output import size  # noqa: PLC0415 - only during pulls

    done, total = number_at(pull, "bytes_done"), number_at(pull, "bytes_total")
    layers = f"{number_at(pull, 'layers_done'):g} of {number_at(pull, 'layers'):g} layers"
    return f"{size(done)} of {size(total)}, {layers}"


def _gpus_text(spec: Mapping[str, object]) -> str:
    count = number_at(spec, "gpus", "count")
    if not count:
        return "none"
    words = [f"{count:g} per worker"]
    if number_at(spec, "gpus", "memory_mib"):
        words.append(f"{mib(number_at(spec, 'gpus', 'memory_mib'))} of it, beside others")
    if number_at(spec, "gpus", "least_memory_mib"):
        words.append(f"at least {mib(number_at(spec, 'gpus', 'least_memory_mib'))} each")
    if text_at(spec, "gpus", "model"):
        words.append(f"model {text_at(spec, 'gpus', 'model')}")
    return ", ".join(words)


def _scale_text(spec: Mapping[str, object]) -> str:
    scale = value_at(spec, "scale")
    scale = scale if isinstance(scale, dict) else {}
    return (
        f"{number_at(scale, 'min_workers'):g} to {number_at(scale, 'max_workers'):g} workers, "
        f"{text_at(scale, 'policy')}, {number_at(scale, 'concurrency'):g} requests a worker, "
        f"idle timeout {span(number_at(scale, 'idle_timeout_s'))}"
    )


def _rm(values: Values, context: Context) -> int:
    for name in values.texts("name"):
        context.client.call("DELETE", path_of("v1", "endpoints", name))
        context.note(f"Removed {name}; its workers finish their requests and stop.")
    return exits.OK


_SCALE_OPTIONS = (
    Option(
        "min-workers",
        "Workers kept running without load.",
        kind=grammar.WHOLE,
        field="scale.min_workers",
        also="min",
    ),
    Option(
        "max-workers",
        "Most workers; 0 pauses the endpoint.",
        kind=grammar.WHOLE,
        field="scale.max_workers",
        also="max",
    ),
    Option(
        "concurrency", "Requests one worker takes at a time.", kind=grammar.WHOLE, field="scale.concurrency"
    ),
    Option(
        "idle-timeout",
        "How long the busiest recent moment counts.",
        kind=grammar.DURATION,
        field="scale.idle_timeout_s",
    ),
    Option("priority", "Larger goes first when GPUs are scarce.", kind=grammar.WHOLE, field="scale.priority"),
)


def _scale(values: Values, context: Context) -> int:
    from gpud.cli import specs  # noqa: PLC0415 - listings do without

    change = specs.from_options(values, context, _SCALE_OPTIONS)
    if not change:
        raise BadUsage("gpud endpoint scale needs something to change.", todo="Such as --min 1 or --max 4.")
    name = values.text("name")
    try:
        endpoint = context.client.call("PATCH", path_of("v1", "endpoints", name), change)
    except CommandFailed as failure:
        raise specs.with_options_named(failure, _SCALE_OPTIONS) from None
    if context.as_json:
        context.print_json(endpoint)
    else:
        spec = value_at(endpoint, "spec")
        context.print_text(f"{name}: {_scale_text(spec if isinstance(spec, dict) else {})}")
    return exits.OK


_REVISIONS = (
    Column("REV", lambda row: text_at(row, "number"), right=True),
    Column("HASH", lambda row: text_at(row, "revision")),
    Column("STATE", lambda row: state_text(text_at(row, "state")), state=True),
    Column("IMAGE", lambda row: text_at(row, "image"), shrink=True),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
    Column("WHY", lambda row: text_at(row, "detail"), shrink=True),
)


def _revisions(values: Values, context: Context) -> int:
    rows = context.client.items(path_of("v1", "endpoints", values.text("name"), "revisions"))
    context.print_table(_REVISIONS, rows, empty="No revisions.")
    return exits.OK


def _rollout_text(endpoint: Mapping[str, object]) -> str:
    """The rollout under way, or how the last one went back."""
    step = text_at(endpoint, "rollout", "step")
    if value_at(endpoint, "rollout", "active"):
        way = f"{text_at(endpoint, 'rollout', 'base')} to {text_at(endpoint, 'rollout', 'target')}"
        return f"{step}: from {way}; {text_at(endpoint, 'serving')} serves"
    if step == "rolled_back":
        return f"{text_at(endpoint, 'rollout', 'target')} failed: {text_at(endpoint, 'rollout', 'detail')}"
    return ""


def _retry(values: Values, context: Context) -> int:
    name = values.text("name")
    context.client.call("POST", path_of("v1", "endpoints", name, "retry"))
    context.note(f"The start failures of {name} are forgotten; it is tried again now.")
    return exits.OK


COMMANDS = (
    Command(("endpoint", "ls"), "List the endpoints.", _ls),
    Command(("endpoint", "get"), "Show one endpoint and its workers.", _get, (_NAME,)),
    Command(
        ("endpoint", "scale"),
        "Change how many workers an endpoint may have. Nothing restarts.",
        _scale,
        (_NAME,),
        _SCALE_OPTIONS,
        examples=("gpud endpoint scale llm --min 1 --max 4", "gpud endpoint scale llm --max 0   # pause it"),
    ),
    Command(
        ("endpoint", "revisions"),
        "List an endpoint's revisions, newest first.",
        _revisions,
        (_NAME,),
    ),
    Command(
        ("endpoint", "retry"),
        "Forget an endpoint's start failures, so that it is tried at once.",
        _retry,
        (_NAME,),
    ),
    Command(
        ("endpoint", "rm"),
        "Remove endpoints. Running requests are finished; usage and events stay.",
        _rm,
        (_NAME._replace(repeat=True),),
    ),
    *starts.COMMANDS,
)
