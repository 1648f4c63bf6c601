"""Writes the reference pages of the API: its operations, the endpoint spec, and the problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpud import __version__
from gpud.api.advice import ADVICE, problem_kinds
from gpud.api.app import ALL_OPERATIONS
from gpud.api.openapi import openapi_document
from gpud.api.reference import heading, operations_by_tag, shapes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpud.api.reference import FieldText, OperationText, ShapeText

ROOT = Path(__file__).parents[2]

_WRITTEN_BY = "This page is written by `scripts/docs api` from the code.\n"

_ENDPOINT_HEAD = """\
# The endpoint spec

What `gpud deploy` and `PUT /v1/endpoints/<name>` take: a table in TOML, an object in JSON, the same
names. Only `name` and `image` are required. A field that is not in this list is refused by its name.

A change of `scale`, `aliases`, `public`, `forward_authorization`, `requests`, or of a limit that gpud itself
enforces (`request_timeout_s`, `first_request_timeout_s`, `stream_idle_timeout_s`, `max_queue`,
`queue_timeout_s`, `drain_timeout_s`, `stop_grace_s`, `stall_timeout_s`) applies at once. Any other change
makes a new revision, and workers of the old one are drained.
"""

_PROBLEMS_HEAD = """\
# Problems

gpud's own errors are RFC 9457 problem documents (`application/problem+json`). `type` is one of the paths
below, which the daemon also serves as a page; it never changes, while `detail` may be worded better.
`fields` names each fault by its field path, `retry_after_s` and the header `Retry-After` say when trying
again makes sense, `instance` is the request's id in the daemon's log. An answer of a worker passes
through untouched.
"""

_SPEC_SECTIONS = (
    "GpusSection",
    "ScaleSection",
    "WarmWindowSection",
    "HealthSection",
    "LimitsSection",
    "JobsSection",
    "RequestsSection",
    "VolumeSection",
)
_TITLES = {"WarmWindowSection": "`[[scale.warm_windows]]`", "VolumeSection": "`[[volumes]]`"}


_NEEDS = {
    "open": "Needs no key.",
    "any": "Needs a key, of any scope.",
    "invoke": "Needs the scope `invoke:<endpoint>`.",
}


def api_files() -> dict[Path, str]:
    """The pages by path."""
    document = openapi_document(ALL_OPERATIONS, version=__version__)
    reference = ROOT / "docs/reference"
    return {
        reference / "api.md": _api(document),
        reference / "endpoint.md": _endpoint({shape.name: shape for shape in shapes(document)}),
        reference / "problems.md": _problems(),
    }


def _api(document: dict[str, Any]) -> str:
    blocks = [f"# API\n\n{document['info']['description']}\n{_WRITTEN_BY}"]
    for tag, text, operations in operations_by_tag(document):
        blocks.append(f"## {heading(tag)}\n\n{text}\n")
        blocks += [_operation(operation) for operation in operations]
    blocks.append("## Shapes\n\nThe JSON objects that requests and answers are made of.\n")
    blocks += [_shape(shape, "###") for shape in shapes(document)]
    return "\n".join(blocks)


def _operation(operation: OperationText) -> str:
    need = _NEEDS.get(operation.scope, f"Needs the scope `{operation.scope}`.")
    lines = [f"### `{operation.method} {operation.path}`", "", f"{operation.summary}. {need}", ""]
    if operation.parameters:
        lines += [*_fields("parameter", operation.parameters), ""]
    if operation.body:
        lines += [f"Body: {operation.body}", ""]
    good = [one for one in operation.answers if int(one.status) < 400]
    bad = [one.status for one in operation.answers if int(one.status) >= 400]
    told = [f"{one.status} {one.text}" + (f" ({one.shape})" if one.shape else "") for one in good]
    lines += [f"Answers: {'; '.join(told)}. Problems: {', '.join(bad)}.", ""]
    return "\n".join(lines)


def _shape(shape: ShapeText, level: str) -> str:
    lines = [f"{level} {shape.name}", "", shape.text, ""]
    if shape.words:
        lines += [f"One of {', '.join(f'`{word}`' for word in shape.words)}.", ""]
    if shape.fields:
        lines += [*_fields("field", shape.fields), ""]
    return "\n".join(lines)


def _fields(what: str, fields: Iterable[FieldText]) -> list[str]:
    lines = [f"| {what} | value | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        default = "required" if field.required else f"`{field.default}`" if field.default else ""
        cells = (f"`{field.name}`", field.kind, default, field.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _endpoint(by_name: dict[str, ShapeText]) -> str:
    blocks = [
        f"{_ENDPOINT_HEAD}\n{_WRITTEN_BY}",
        "\n".join(_fields("field", by_name["EndpointSpec"].fields)) + "\n",
    ]
    for name in _SPEC_SECTIONS:
        section = name.removesuffix("Section").lower()
        title = _TITLES.get(name, f"`[{section}]`")
        shape = by_name[name]
        rows = "\n".join(_fields("field", shape.fields))
        blocks.append(f"## {title}\n\n{shape.text}\n\n{rows}\n")
    for name in ("PolicyName", "Balance"):
        words = ", ".join(f"`{word}`" for word in by_name[name].words)
        blocks.append(f"## {name}\n\n{by_name[name].text} One of {words}.\n")
    return "\n".join(blocks)


def _problems() -> str:
    blocks = [f"{_PROBLEMS_HEAD}\n{_WRITTEN_BY}"]
    for kind in problem_kinds():
        advice = ADVICE[kind.slug]
        blocks.append(
            f"## {kind.title}\n\n`/problems/{kind.slug}`, status {kind.status}\n\n"
            f"{advice.means}\n\n**What to do.** {advice.do}\n"
        )
    return "\n".join(blocks)
