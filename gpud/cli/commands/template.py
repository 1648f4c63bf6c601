"""`gpud template`: endpoint specs of common servers, which come with gpud."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, templates
from gpud.cli.grammar import Argument, Command
from gpud.cli.output import Column, text_at

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values

COLUMNS = (
    Column("NAME", lambda row: text_at(row, "name")),
    Column("IMAGE", lambda row: text_at(row, "image")),
    Column("FOR", lambda row: text_at(row, "about")),
)


def _ls(_values: Values, context: Context) -> int:
    from gpud.cli.specs import read_file  # noqa: PLC0415 - `show` does without

    rows: list[dict[str, object]] = []
    for name in templates.names():
        (spec,) = read_file(templates.path_of(name))
        about = templates.text_of(name).partition("\n")[0].removeprefix("# ")
        rows.append({"name": name, "image": spec.get("image"), "about": about})
    context.print_table(COLUMNS, rows, empty="This gpud came without templates.")
    return exits.OK


def _show(values: Values, context: Context) -> int:
    text = templates.text_of(values.text("name"))
    if context.as_json:
        import tomllib  # noqa: PLC0415 - 10 ms

        context.print_json(tomllib.loads(text))
    else:
        context.print_text(text.rstrip("\n"))
    return exits.OK


COMMANDS = (
    Command(("template", "ls"), "List the templates.", _ls),
    Command(
        ("template", "show"),
        "Print a template, to change it and apply it.",
        _show,
        (Argument("name", "Name of the template."),),
        examples=("gpud template show vllm > llm.toml",),
    ),
)
