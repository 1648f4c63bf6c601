"""Writes the parts of the documentation that come from the code, or says which are not current.

A part is a function that returns the text of each file it writes; `PARTS` names them all.
"""

from __future__ import annotations

import argparse
import sys
import typing
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import annotated_types
from docs_api import api_files
from docs_cli import cli_files
from docs_events import event_files
from docs_web import web_files
from pydantic import BaseModel

from gpud.settings import Settings, StaticGpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[2]
_WIDTH = 100

_TOML_HEAD = """\
# gpud.toml: every setting of the daemon, at its default.
#
# A line that starts with # and a name is a setting: take the # away to change it.
# Names gpud does not know are refused. A change counts from the next start of the daemon.
"""

_STATIC_EXAMPLE = """\
# In place of `static = []`, one table for each GPU:
#
# [[gpus.static]]
"""

_MARKDOWN_HEAD = """\
# Settings

gpud reads one TOML file: `gpud serve --config gpud.toml`. Without a file every setting has its default.
`gpud.toml` in the source tree has them all, commented. A name that is not in this list is refused, and so
is a value out of bounds: gpud says which, and does not start. A change counts from the next start.

A unit ends each name: `_s` seconds, `_mib` mebibytes, `_bytes` bytes, `_micros` millionths of the currency.

This page is written by `scripts/docs settings` from the code.
"""


def settings_files() -> dict[Path, str]:
    """gpud.toml and its reference page, from the settings' own types, bounds and docstrings."""
    return {
        ROOT / "gpud.toml": _settings_toml(),
        ROOT / "docs/reference/settings.md": _settings_markdown(),
    }


PARTS: dict[str, Callable[[], dict[Path, str]]] = {
    "settings": settings_files,
    "cli": cli_files,
    "api": api_files,
    "events": event_files,
    "web": web_files,
}


def _settings_toml() -> str:
    blocks = [_TOML_HEAD]
    for name, section in _sections():
        lines = [f"[{name}]  # {_text(section.__doc__)}"]
        for key, field in section.model_fields.items():
            lines += [
                "",
                *_comment(f"{_text(field.description)} {_bounds(field)}".strip()),
                f"#{key} = {_toml(field.get_default())}",
            ]
        # After the section's own settings: a table ends where the next one begins.
        if any(_rows_of(field) is StaticGpu for field in section.model_fields.values()):
            lines += ["", *_STATIC_EXAMPLE.splitlines(), *_static_fields()]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _static_fields() -> Iterator[str]:
    for key, field in StaticGpu.model_fields.items():
        value = _toml("GPU-card-0" if field.is_required() else field.get_default())
        yield f"# {key} = {value}  # {_text(field.description)}"


def _settings_markdown() -> str:
    blocks = [_MARKDOWN_HEAD]
    for name, section in _sections():
        blocks.append(f"## `[{name}]`\n\n{_text(section.__doc__)}\n\n{_table(section)}")
    blocks.append(f"## `[[gpus.static]]`\n\n{_text(StaticGpu.__doc__)}\n\n{_table(StaticGpu)}")
    return "\n".join(blocks)


def _table(section: type[BaseModel]) -> str:
    lines = ["| setting | value | default | meaning |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        default = "required" if field.is_required() else f"`{_toml(field.get_default())}`"
        value = " ".join(filter(None, [_type(field.annotation), _limits(field)]))
        lines.append(f"| `{key}` | {value} | {default} | {_text(field.description)} |")
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            raise TypeError(f"{name} is no section")
        yield name, section


def _rows_of(field: FieldInfo) -> object:
    return typing.get_args(field.annotation)[0] if typing.get_origin(field.annotation) is tuple else None


def _type(annotation: object) -> str:
    if typing.get_origin(annotation) is Literal:
        return _one_of(typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        inner = typing.get_args(annotation)[0]
        inner = typing.get_args(inner)[0] if typing.get_origin(inner) is typing.Annotated else inner
        tables = isinstance(inner, type) and issubclass(inner, BaseModel)
        return "list of tables" if tables else f"list of {_type(inner)}s"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _one_of(tuple(annotation))
    names: dict[object, str] = {
        bool: "true or false",
        int: "integer",
        float: "number",
        str: "text",
        Path: "path",
        IPv4Network | IPv6Network: "network",
    }
    return names[annotation]


def _one_of(values: tuple[object, ...]) -> str:
    spelled = [f"`{value}`" for value in values]
    return ", ".join(spelled[:-1]) + f" or {spelled[-1]}"


def _limits(field: FieldInfo) -> str:
    least, most = _limit(field, annotated_types.Ge, "ge"), _limit(field, annotated_types.Le, "le")
    if least is not None and most is not None:
        return f"from {_number(least)} to {_number(most)}"
    return f"from {_number(least)} on" if least is not None else ""


def _limit(field: FieldInfo, kind: type, name: str) -> float | None:
    return next((getattr(limit, name) for limit in field.metadata if isinstance(limit, kind)), None)


def _bounds(field: FieldInfo) -> str:
    choices = typing.get_origin(field.annotation) is Literal or (
        isinstance(field.annotation, type) and issubclass(field.annotation, StrEnum)
    )
    said = " ".join(filter(None, [_type(field.annotation) if choices else "", _limits(field)]))
    return f"({said.replace('`', '')})" if said else ""


def _number(value: float) -> str:
    return f"{value:g}" if value < 1e6 else str(value)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    return f'"{value}"'


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def _comment(text: str) -> Iterator[str]:
    line = "#"
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH:
            yield line
            line = "#"
        line += f" {word}"
    yield line


def main() -> int:
    """Write or check the parts named on the command line."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all of them when none is named")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not current")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.part if part not in PARTS]
    if unknown:
        parser.error(f"unknown part: {', '.join(unknown)}")
    stale = []
    for part in arguments.part or PARTS:
        for path, text in PARTS[part]().items():
            if path.exists() and path.read_text(encoding="utf-8") == text:
                continue
            stale.append(str(path.relative_to(ROOT)))
            if not arguments.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if stale:
        print("not current, run scripts/docs:" if arguments.check else "written:", *stale)
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
