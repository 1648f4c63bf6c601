"""`gpud apply`: makes endpoints what TOML files say."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpud.cli import exits, specs
from gpud.cli.client import Problem, path_of
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import DURATION, FLAG, Command, Option
from gpud.cli.output import failure_text, text_at, value_at

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values


_WAIT_LIMIT_S = 1800.0


def _apply(values: Values, context: Context) -> int:
    paths = values.texts("file")
    if not paths:
        raise BadUsage("gpud apply needs a file.", todo="Say gpud apply -f endpoint.toml.")
    wanted = [(path, spec) for path in paths for spec in specs.read_file(path)]
    _refuse_twice([(path, str(spec["name"])) for path, spec in wanted])
    worst = exits.OK
    applied: list[dict[str, object]] = []
    for path, spec in wanted:
        try:
            told, endpoint = _apply_one(spec, context)
        except Problem as failure:
            failure.what = f"{path}: {spec['name']}: {failure.what}"
            context.note(failure_text(failure).rstrip("\n"))
            worst = worst or failure.code
            continue
        applied.append(endpoint)
        if not context.as_json:
            context.print_text(f"{spec['name']} {told}")
    if values.flag("wait", default=True):
        worst = _until_rolled_out(applied, context, values.number("wait-timeout", _WAIT_LIMIT_S)) or worst
    if context.as_json:
        context.print_json({"items": applied, "next": None})
    return worst


def _until_rolled_out(applied: list[dict[str, object]], context: Context, limit_s: float) -> int:
    """Wait for all that roll out, beside each other as they do; returns the first failure's code."""
    from gpud.cli.rolling import until_rolled_out  # noqa: PLC0415 - only for who waits

    worst, deadline_s = exits.OK, time.monotonic() + limit_s
    for number, endpoint in enumerate(applied):
        if not value_at(endpoint, "rollout", "active"):
            continue
        try:
            left_s = max(deadline_s - time.monotonic(), 0.0)
            applied[number] = until_rolled_out(context, endpoint, limit_s=left_s)
        except CommandFailed as failure:
            context.note(failure_text(failure).rstrip("\n"))
            worst = worst or failure.code
        else:
            if not context.as_json:
                context.print_text(
                    f"{text_at(endpoint, 'name')} serves revision {text_at(endpoint, 'rollout', 'target')}"
                )
    return worst


def _refuse_twice(named: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for path, name in named:
        if name in seen:
            raise BadUsage(
                f"The endpoint {name} is in {seen[name]} and again in {path}.",
                todo="Keep one. Nothing was changed.",
            )
        seen[name] = path


def _apply_one(spec: specs.Spec, context: Context) -> tuple[str, dict[str, object]]:
    url = path_of("v1", "endpoints", str(spec["name"]))
    try:
        before = context.client.get(url)
    except CommandFailed as failure:
        if failure.code != exits.NOT_FOUND:
            raise
        before = {}
    after = context.client.call("PUT", url, spec)
    if not before:
        return "created", after
    if before.get("revision") != after.get("revision"):
        return f"updated: new revision {text_at(after, 'revision')}", after
    same = before.get("spec") == after.get("spec")
    return ("unchanged" if same else "updated: applies at once, no worker restarts"), after


COMMANDS = (
    Command(
        ("apply",),
        "Make endpoints what TOML files say.",
        _apply,
        options=(
            Option("file", "A file; - is stdin.", metavar="FILE", short="f", repeat=True),
            Option("wait", "Wait for new revisions to serve.", kind=FLAG, negatable=True, default="yes"),
            Option("wait-timeout", "Longest wait for all of them.", kind=DURATION, default="30m"),
        ),
        details=(
            "A file holds one endpoint, its fields at the top, or several as [[endpoint]] tables. All files "
            "are read before anything is sent, so that a file with a fault changes nothing. An endpoint "
            "that the daemon refuses does not keep the others from being applied; the exit code is then "
            "that of the first refusal. New revisions then roll out beside each other, and it waits for them."
        ),
        examples=("gpud apply -f endpoint.toml", "gpud apply -f api.toml -f llm.toml"),
    ),
)
