"""Reads an OpenAPI document as text for people; the page at `/docs` and `docs/reference/api.md` show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldText:
    """One field or parameter.

    Args:
        kind: Its type and bounds, in words.
        default: As JSON, empty when it has none.
    """

    name: str
    kind: str
    required: bool
    default: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerText:
    """One way an operation ends; `shape` names the JSON object, empty when there is none."""

    status: str
    shape: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationText:
    """One operation."""

    method: str
    path: str
    summary: str
    scope: str
    parameters: tuple[FieldText, ...]
    body: str
    answers: tuple[AnswerText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeText:
    """One named JSON object, or a set of words."""

    name: str
    text: str
    fields: tuple[FieldText, ...]
    words: tuple[str, ...]


def operations_by_tag(document: Json) -> Iterator[tuple[str, str, tuple[OperationText, ...]]]:
    """Every tag with its text and its operations."""
    for tag in document["tags"]:
        operations = tuple(
            _operation(method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation["tags"]
        )
        if operations:
            yield tag["name"], tag["description"], operations


def heading(tag: str) -> str:
    """A tag as a heading."""
    return {"gpus": "GPUs"}.get(tag, tag.capitalize())


def shapes(document: Json) -> Iterator[ShapeText]:
    """Every named JSON object, by name."""
    for name, schema in sorted(document["components"]["schemas"].items()):
        required = schema.get("required", ())
        yield ShapeText(
            name=name,
            text=_one_line(schema.get("description", "")),
            fields=tuple(
                _field(field, inner, required=field in required)
                for field, inner in schema.get("properties", {}).items()
            ),
            words=tuple(str(word) for word in schema.get("enum", ())),
        )


def _operation(method: str, path: str, operation: Json) -> OperationText:
    return OperationText(
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        scope=operation["x-scope"],
        parameters=tuple(
            _field(one["name"], one["schema"] | {"description": one.get("description", "")}, required=True)
            if one["in"] == "path"
            else _field(one["name"], one["schema"] | {"description": one.get("description", "")})
            for one in operation["parameters"]
        ),
        body=_content_kind(operation.get("requestBody", {})),
        answers=tuple(
            AnswerText(status=status, shape=_content_kind(answer), text=answer["description"])
            for status, answer in operation["responses"].items()
        ),
    )


def _content_kind(holder: Json) -> str:
    for media_type, content in holder.get("content", {}).items():
        schema = content["schema"]
        return kind_text(schema) if "$ref" in schema else schema.get("description", media_type)
    return ""


def _field(name: str, schema: Json, *, required: bool = False) -> FieldText:
    default = schema.get("default")
    plain = isinstance(default, str | bool | int | float) and default != ""
    return FieldText(
        name=name,
        kind=kind_text(schema),
        required=required,
        default=str(default).lower() if isinstance(default, bool) else str(default) if plain else "",
        text=_one_line(schema.get("description", "")),
    )


def kind_text(schema: Json) -> str:
    """Say in words which values a schema admits."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(kind_text(one) for one in schema["anyOf"])
    if "const" in schema:
        return repr(schema["const"])
    return _typed_text(schema)


def _typed_text(schema: Json) -> str:
    match schema.get("type"):
        case "array":
            return f"list of {kind_text(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {kind_text(schema['additionalProperties'])}"
        case "integer":
            return "whole number" + _bounds(schema)
        case "number":
            return "number" + _bounds(schema)
        case "boolean":
            return "true or false"
        case "string":
            return "time" if schema.get("format") == "date-time" else "text"
        case None:
            return "anything"
        case other:
            return str(other)


def _bounds(schema: Json) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None:
        return ""
    return f", {least:g} to {most:.10g}" if most is not None else f", at least {least:g}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
