"""`gpud deploy`: makes an endpoint of an image, or changes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar, specs
from gpud.cli.client import path_of
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import number_at, state_text, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_WAIT_LIMIT_S = 1800.0

_ARGUMENTS = (
    Argument("image", "Image reference, such as repository/name:tag.", required=False, field="image"),
    Argument(
        "command", "Arguments after the image's entrypoint.", required=False, rest=True, field="command"
    ),
)

_OPTIONS = (
    Option("name", "Name of the endpoint.", short="n", field="name"),
    Option("file", "Take the endpoint from a TOML file; options come on top.", metavar="FILE", short="f"),
    Option(
        "port",
        "Where the container listens.",
        kind=grammar.WHOLE,
        field="port",
        default="the image's only exposed port",
    ),
    Option(
        "gpus",
        "GPUs for each worker; 0 for a CPU worker.",
        kind=grammar.WHOLE,
        field="gpus.count",
        default="1",
    ),
    Option(
        "gpu-memory-mib",
        "Reserve this much of one GPU, which others may share.",
        kind=grammar.WHOLE,
        field="gpus.memory_mib",
    ),
    Option(
        "gpu-least-memory-mib",
        "Least memory of each GPU.",
        kind=grammar.WHOLE,
        field="gpus.least_memory_mib",
    ),
    Option("gpu-model", "Only GPUs whose name contains this, such as H100.", field="gpus.model"),
    Option(
        "min-workers",
        "Workers kept running without load.",
        kind=grammar.WHOLE,
        field="scale.min_workers",
        default="0",
    ),
    Option("max-workers", "Most workers.", kind=grammar.WHOLE, field="scale.max_workers", default="1"),
    Option(
        "policy",
        "What decides the number of workers.",
        choices=("concurrency", "queue_delay", "request_count", "fixed"),
        field="scale.policy",
        default="concurrency",
    ),
    Option(
        "concurrency",
        "Requests one worker takes at a time.",
        kind=grammar.WHOLE,
        field="scale.concurrency",
        default="8",
    ),
    Option(
        "idle-timeout",
        "How long without load until workers stop: 300, 300s or 5m.",
        kind=grammar.DURATION,
        field="scale.idle_timeout_s",
        default="1m",
    ),
    Option(
        "more-policy",
        "A policy beside --policy; the largest wish wins.",
        choices=("concurrency", "queue_delay", "request_count", "fixed"),
        repeat=True,
        field="scale.more_policies",
    ),
    Option(
        "queue-delay",
        "Wait that queue_delay holds for fine.",
        kind=grammar.DURATION,
        field="scale.queue_delay_s",
        default="4s",
    ),
    Option(
        "beta",
        "Share of a cold start that queue_delay lets pass as wait, 0 to 1.",
        kind=grammar.NUMBER,
        field="scale.beta",
        default="0.25",
    ),
    Option(
        "target",
        "Requests per worker that concurrency and request_count aim for.",
        kind=grammar.NUMBER,
        field="scale.target",
        default="derived from --concurrency",
    ),
    Option(
        "activation-workers",
        "Started at once when there is none.",
        kind=grammar.WHOLE,
        field="scale.activation_workers",
        default="1",
    ),
    Option(
        "scale-down-delay",
        "How long a smaller wish must last.",
        kind=grammar.DURATION,
        field="scale.scale_down_delay_s",
        default="30s",
    ),
    Option(
        "idle-timeout-auto",
        "Take the usual cold start for --idle-timeout, 30s to 10m.",
        kind=grammar.FLAG,
        negatable=True,
        field="scale.idle_timeout_auto",
    ),
    Option(
        "scale-to-zero-delay",
        "How long without load until the last worker stops.",
        kind=grammar.DURATION,
        field="scale.scale_to_zero_delay_s",
        default="as --idle-timeout",
    ),
    Option("priority", "Larger goes first when GPUs are scarce.", kind=grammar.WHOLE, field="scale.priority"),
    Option(
        "weight",
        "Share of scarce GPUs beside equals.",
        kind=grammar.NUMBER,
        field="scale.weight",
        default="1",
    ),
    Option(
        "quantum",
        "How long a worker keeps its GPUs from equals.",
        kind=grammar.DURATION,
        field="scale.quantum_s",
        default="three cold starts, at least 1m",
    ),
    Option(
        "exclusive",
        "Idle workers give way to nobody.",
        kind=grammar.FLAG,
        negatable=True,
        field="scale.exclusive",
    ),
    Option(
        "priority-aging",
        "Raise the priority by one for each so long a wait.",
        kind=grammar.DURATION,
        field="scale.priority_aging_s",
        default="never",
    ),
    Option(
        "preempt",
        "What becomes of a worker of lower priority that does not finish in time.",
        choices=("drain", "kill"),
        field="scale.preempt",
        default="drain",
    ),
    Option(
        "balance",
        "Which ready worker gets the next request.",
        choices=("round_robin", "pack", "least_inflight"),
        field="scale.balance",
        default="round_robin",
    ),
    Option(
        "warm-window",
        "Keep workers by the clock, such as '0 8 * * MON-FRI for 10h in Europe/Berlin x2'.",
        metavar="WINDOW",
        repeat=True,
        field="scale.warm_windows",
    ),
    Option(
        "standby",
        "What is kept for a fast return besides the workers that serve.",
        choices=("none", "created", "parked"),
        field="standby.mode",
        default="none",
    ),
    Option(
        "standby-workers",
        "How many of these are kept.",
        kind=grammar.WHOLE,
        field="standby.workers",
        default="1",
    ),
    Option(
        "env",
        "Environment of the container; without =VALUE the variable is taken from here.",
        kind=grammar.PAIR,
        short="e",
        repeat=True,
        field="env",
    ),
    Option("volume", "Mount a volume.", metavar="SRC:DST[:ro]", short="v", repeat=True, field="volumes"),
    Option(
        "health-path",
        "A worker is ready once this path answers 200 to 399.",
        metavar="PATH",
        field="health.path",
        default="/",
    ),
    Option(
        "start-timeout",
        "Longest time from container start to ready.",
        kind=grammar.DURATION,
        field="health.start_timeout_s",
        default="10m",
    ),
    Option(
        "stall-timeout",
        "Longest time of a start without any sign of progress; 0 for no limit.",
        kind=grammar.DURATION,
        field="health.stall_timeout_s",
        default="5m",
    ),
    Option(
        "request-timeout",
        "Longest time for one request.",
        kind=grammar.DURATION,
        field="limits.request_timeout_s",
        default="10m",
    ),
    Option("job-path", "Jobs are POSTed here.", metavar="PATH", field="jobs.path", default="/"),
    Option(
        "execution-timeout",
        "Longest time for one attempt of a job.",
        kind=grammar.DURATION,
        field="jobs.execution_timeout_s",
        default="10m",
    ),
    Option(
        "strategy",
        "How a new revision takes over; recreate stops the old workers first.",
        choices=("rolling", "recreate"),
        field="rollout.strategy",
        default="rolling",
    ),
    Option(
        "verify",
        "Try one worker of a new revision though nobody calls.",
        kind=grammar.FLAG,
        negatable=True,
        field="rollout.verify",
        default="yes",
    ),
    Option(
        "min-healthy-time",
        "How long the first new worker must stay ready.",
        kind=grammar.DURATION,
        field="rollout.min_healthy_time_s",
        default="10s",
    ),
    Option(
        "progress-deadline",
        "Longest time for a step of a rollout.",
        kind=grammar.DURATION,
        field="rollout.progress_deadline_s",
        default="10m",
    ),
    Option(
        "smoke-path",
        "A new revision must answer this path well before it takes over.",
        metavar="PATH",
        field="rollout.smoke.path",
    ),
    Option("smoke-body", "JSON to POST to --smoke-path.", metavar="JSON", field="rollout.smoke.body"),
    Option("registry", "Stored credential for a private image.", metavar="NAME", field="registry"),
    Option("alias", "OpenAI model name routed here.", repeat=True, field="aliases"),
    Option("public", "Requests need no key.", kind=grammar.FLAG, negatable=True, field="public"),
    Option("deny-path", "Refuse this path of the workers.", repeat=True, field="requests.denied_paths"),
    Option("quiet-path", "GETs of this path start no worker.", repeat=True, field="requests.quiet_paths"),
    Option("progress", "Tell waiting streams.", kind=grammar.FLAG, negatable=True, field="requests.progress"),
    Option("cpus", "CPU limit of a worker.", kind=grammar.NUMBER, field="limits.cpus"),
    Option("memory-mib", "Memory limit of a worker.", kind=grammar.WHOLE, field="limits.memory_mib"),
    Option("shm-mib", "Size of /dev/shm.", kind=grammar.WHOLE, field="limits.shm_mib", default="1024"),
    Option(
        "wait",
        "Wait until a worker is ready, or until the new revision serves.",
        kind=grammar.FLAG,
        negatable=True,
        default="for a new revision, or with --min-workers above 0",
    ),
    Option(
        "dry-run",
        "Only say what would be placed where, who would give way, and how soon.",
        kind=grammar.FLAG,
    ),
    Option("wait-timeout", "Longest wait.", kind=grammar.DURATION, default="30m"),
)

_PARTS = (*_ARGUMENTS, *_OPTIONS)


def _deploy(values: Values, context: Context) -> int:
    spec = specs.from_options(values, context, _PARTS, _base(values))
    if not spec.get("name"):
        raise BadUsage("gpud deploy needs a name for the endpoint.", todo="Add --name NAME.")
    if not spec.get("image"):
        raise BadUsage(
            "gpud deploy needs an IMAGE, or a --file that names one.", todo="See gpud deploy --help."
        )
    try:
        if values.flag("dry-run"):
            from gpud.cli import dry_run  # noqa: PLC0415 - a deploy does without

            return dry_run.show(context, spec)
        endpoint = context.client.call("PUT", path_of("v1", "endpoints", str(spec["name"])), spec)
    except CommandFailed as failure:
        raise specs.with_options_named(failure, _PARTS) from None
    kept = number_at(endpoint, "spec", "scale", "min_workers")
    rolling = bool(value_at(endpoint, "rollout", "active"))
    if rolling and values.flag("wait", default=True):
        from gpud.cli.rolling import until_rolled_out  # noqa: PLC0415 - most deploys do not wait

        limit_s = values.number("wait-timeout", _WAIT_LIMIT_S)
        endpoint = until_rolled_out(context, endpoint, limit_s=limit_s)
    elif values.flag("wait", default=kept > 0):
        from gpud.cli import waiting  # noqa: PLC0415 - most deploys do not wait

        limit_s = values.number("wait-timeout", _WAIT_LIMIT_S)
        endpoint = waiting.until_ready(context, endpoint, limit_s=limit_s, wake=not kept)
    if context.as_json:
        context.print_json(endpoint)
    else:
        context.print_text(_told(endpoint, context))
    return exits.OK


def _base(values: Values) -> specs.Spec | None:
    path = values.text("file")
    if not path:
        return None
    found = specs.read_file(path)
    if len(found) > 1:
        raise BadUsage(
            f"{path} holds {len(found)} endpoints.", todo=f"Deploy them with gpud apply -f {path}."
        )
    return found[0]


def _told(endpoint: Mapping[str, object], context: Context) -> str:
    name = text_at(endpoint, "name")
    made = "created" if endpoint.get("created_at") == endpoint.get("updated_at") else "updated"
    pin = text_at(endpoint, "image", "pin").rpartition("@")[2][:19]
    state = text_at(endpoint, "condition")
    shown = state_text(state, colour=context.colour)
    lines = [
        f"{name} {made}: {shown}, revision {text_at(endpoint, 'revision')}, image {pin}",
    ]
    if state == "sleeping":
        lines.append(f"Its first request starts a worker: gpud invoke {name} /")
    return "\n".join(lines)


COMMANDS = (
    Command(
        ("deploy",),
        "Make an endpoint of an image, or change one.",
        _deploy,
        _ARGUMENTS,
        _OPTIONS,
        details=(
            "Says the whole endpoint: what is left out goes back to its default. "
            "gpud endpoint scale changes the scale alone.\n\n"
            "A changed image, command, port, environment or GPU need makes a new revision, "
            "which is tried by one worker before the others follow; gpud goes back by itself when it fails. "
            "A changed scale applies at once. With --wait and nothing kept running, a worker is woken."
        ),
        examples=(
            "gpud deploy vllm/vllm-openai:v0.11 --name llm --max-workers 4 -- --model Qwen/Qwen3-8B",
            "gpud deploy ghcr.io/me/api:3 --name api --gpus 0 --registry ghcr --health-path /health --wait",
            "gpud deploy --file endpoint.toml --max-workers 2",
        ),
    ),
)
