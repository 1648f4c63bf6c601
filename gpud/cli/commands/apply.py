"""`gpud apply`: makes endpoints what TOML files say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, specs
from gpud.cli.client import Problem, path_of
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import Command, Option
from gpud.cli.output import failure_text, text_at

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values


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
    if context.as_json:
        context.print_json({"items": applied, "next": None})
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
        options=(Option("file", "A file; - is stdin.", metavar="FILE", short="f", repeat=True),),
        details=(
            "A file holds one endpoint, its fields at the top, or several as [[endpoint]] tables. All files "
            "are read before anything is sent, so that a file with a fault changes nothing. An endpoint "
            "that the daemon refuses does not keep the others from being applied; the exit code is then "
            "that of the first refusal."
        ),
        examples=("gpud apply -f endpoint.toml", "gpud apply -f api.toml -f llm.toml"),
    ),
)
