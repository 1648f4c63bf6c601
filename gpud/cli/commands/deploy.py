"""`gpud deploy`: makes an endpoint of an image, or changes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, specs
from gpud.cli.client import path_of
from gpud.cli.commands.deploy_options import OPTIONS
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import Argument, Command
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

_PARTS = (*_ARGUMENTS, *OPTIONS)


def _deploy(values: Values, context: Context) -> int:
    spec = specs.from_options(values, context, _PARTS, _base(values))
    if not spec.get("name"):
        raise BadUsage("gpud deploy needs a name for the endpoint.", todo="Add --name NAME.")
    if not spec.get("image"):
        raise BadUsage(
            "gpud deploy needs an IMAGE, or a --file or --template that names one.",
            todo="See gpud deploy --help.",
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
    path, template = values.text("file"), values.text("template")
    if path and template:
        raise BadUsage("gpud deploy takes --file or --template, not both.", todo="Leave one of them out.")
    if template:
        from gpud.cli import templates  # noqa: PLC0415 - most deploys do without

        path = templates.path_of(template)
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
        OPTIONS,
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
            "gpud deploy --template vllm --name llm --max-workers 4",
        ),
    ),
)
