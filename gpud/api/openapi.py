"""Writes the OpenAPI 3.1 document from the operations and the shapes of what they take and give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from gpud.api.dialects import Dialect, dialect_of
from gpud.api.endpoints import MERGE_PATCH
from gpud.api.operations import Operation, Scope
from gpud.api.schemas.problem import ProblemDocument
from gpud.core.problem import PROBLEM_TYPE
from gpud.errors import (
    BodyTooLarge,
    Conflict,
    DependencyDown,
    Forbidden,
    GpudError,
    IdempotencyMismatch,
    InvalidRequest,
    StorageFull,
    TooManyAttempts,
    Unauthenticated,
    UnknownHost,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

Json = dict[str, Any]

_REF = "#/components/schemas/"
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")

_INTRODUCTION = """\
Every path below `/v1` needs a key, sent as `Authorization: Bearer gpud_…`; root and the daemon's own user
need none through the Unix socket. Keys have scopes: `read`, `write`, `admin` (which allows everything),
`metrics`, `exec`, `invoke:<endpoint>` and `invoke:*`.

Errors are RFC 9457 problem documents; `type` is the path of a page that says what to do, `fields` names each
fault. Lists come in pages: hand `next` back as `cursor` until it is null. Every change takes an
`Idempotency-Key`: a repeated request with the same key is answered as the first one was, with the header
`Idempotent-Replayed: true`, for 24 hours. Times are RFC 3339; units end the names of numbers that have one.
"""

_TAGS = {
    "endpoints": "A container image with its scale policy and GPU needs; what users create and call.",
    "workers": "One container serving one endpoint on its GPUs.",
    "gpus": "The GPUs of the box.",
    "images": "Images on the box, and pulls.",
    "registries": "Credentials for private registries.",
    "keys": "API keys.",
    "usage": "GPU time, its price, and the audit of both.",
    "events": "What happened.",
    "logs": "What the workers wrote, kept after they are gone.",
    "system": "The daemon itself.",
    "jobs": "Work that outlives its request: what is known of it, dead letters, streams.",
    "webhooks": "Who is called when something happens, and what became of each call.",
    "runpod": "RunPod's job API: clients of RunPod Serverless work with it unchanged.",
}


_RUNPOD_ERROR: Json = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}

_OPENAI_ERROR: Json = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


_EVENT: Json = {
    "type": "object",
    "description": "A server-sent event; `data` is JSON.",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
}

_SHAPES: dict[str, Json] = {"application/json": {"type": "object"}, "text/event-stream": _EVENT}
"""Of answers that no schema describes."""


def openapi_document(operations: Sequence[Operation], *, version: str) -> Json:
    """Write the document of a set of operations."""
    schemas = _schemas(operations)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    for model in {one.query for one in operations if one.query}:
        schemas.pop(_schema_name(model), None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gpud",
            "version": version,
            "summary": "The control API of one GPU box",
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This daemon"}],
        "security": [{"key": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "bearerFormat": "gpud_<id>_<secret>"}
            },
        },
    }


def _schemas(operations: Iterable[Operation]) -> dict[str, Json]:
    models: dict[type[BaseModel], None] = {ProblemDocument: None}
    for one in operations:
        models.update({model: None for model in (one.query, one.body, one.answer) if model})
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF + "{model}"
    )
    named = {name.removesuffix("Document"): schema for name, schema in document["$defs"].items()}
    shortened: dict[str, Json] = _with_short_names(named)
    return dict(sorted(shortened.items()))


def _with_short_names(node: Any) -> Any:  # noqa: ANN401 any JSON there is
    """Drop the word Document, which tells two kinds of classes apart that no client sees."""
    if isinstance(node, dict):
        # Titles only repeat names; a property called `title` is an object here, and stays.
        kept = {name: value for name, value in node.items() if name != "title" or isinstance(value, dict)}
        short = {name: _with_short_names(value) for name, value in kept.items()}
        if isinstance(short.get("$ref"), str):
            short["$ref"] = short["$ref"].removesuffix("Document")
        return short
    if isinstance(node, list):
        return [_with_short_names(value) for value in node]
    return node


def _schema_name(model: type[BaseModel]) -> str:
    return model.__name__.removesuffix("Document")


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF + _schema_name(model)}


def _operation(operation: Operation, schemas: dict[str, Json]) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": _about_scope(operation),
        "tags": [operation.tag],
        "parameters": _parameters(operation, schemas),
        "responses": _responses(operation),
        "x-scope": operation.scope.value,
    }
    if operation.scope is Scope.OPEN:
        described["security"] = []
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _body(operation, operation.body)}
    return described


def _about_scope(operation: Operation) -> str:
    if operation.scope is Scope.OPEN:
        return "Needs no key."
    if operation.scope is Scope.ANY:
        return "Needs a key, of any scope."
    if operation.scope is Scope.INVOKE:
        return "Needs the scope `invoke:<endpoint>`."
    return f"Needs the scope `{operation.scope.value}`."


def _body(operation: Operation, body: type[BaseModel]) -> Json:
    if operation.method != "PATCH":
        return {"application/json": {"schema": _ref(body)}}
    schema = {"type": "object", "description": f"An RFC 7396 merge patch of {_schema_name(body)}."}
    return {MERGE_PATCH: {"schema": schema}, "application/json": {"schema": schema}}


def _parameters(operation: Operation, schemas: dict[str, Json]) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PATH_PARAMETER.findall(operation.path)
    ]
    if operation.query is not None:
        shape = schemas[_schema_name(operation.query)]
        for name, schema in shape.get("properties", {}).items():
            described = _without_null(schema)
            text = described.pop("description", "")
            found.append({"name": name, "in": "query", "description": text, "schema": described})
    if operation.mutates:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Makes a repeated request safe.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            }
        )
    return found


def _without_null(schema: Json) -> Json:
    """A parameter cannot be null: it is left out."""
    described = dict(schema)
    for one in described.pop("anyOf", ()):
        if one.get("type") != "null":
            described |= one
    if described.get("default", "") is None:
        del described["default"]
    return described


def _responses(operation: Operation) -> Json:
    responses: Json = {}
    for status, text in operation.statuses:
        responses[str(status)] = {"description": text}
        if operation.answer is not None:
            responses[str(status)]["content"] = {"application/json": {"schema": _ref(operation.answer)}}
        elif status == 200:
            shape = _SHAPES.get(operation.media_type, {"type": "string"})
            responses[str(status)]["content"] = {operation.media_type: {"schema": shape}}
        if operation.streams:
            responses[str(status)]["content"]["text/event-stream"] = {"schema": _EVENT}
    by_status: dict[int, list[str]] = {}
    for kind in _problems(operation):
        titles = by_status.setdefault(kind.status, [])
        if kind.title not in titles:
            titles.append(kind.title)
    for status, titles in sorted(by_status.items()):
        if str(status) not in responses:
            responses[str(status)] = {"description": "; ".join(titles), "content": _refusal(operation)}
    return responses


def _refusal(operation: Operation) -> Json:
    """What the body of an error is."""
    match dialect_of(operation.path):
        case Dialect.GPUD:
            return {PROBLEM_TYPE: {"schema": _ref(ProblemDocument)}}
        case Dialect.RUNPOD:
            return {"application/json": {"schema": _RUNPOD_ERROR}}
        case Dialect.OPENAI:
            return {"application/json": {"schema": _OPENAI_ERROR}}


def _problems(operation: Operation) -> list[type[GpudError]]:
    kinds: list[type[GpudError]] = [*operation.problems, GpudError, UnknownHost]
    if operation.scope is not Scope.OPEN:
        kinds += [Unauthenticated, Forbidden, TooManyAttempts, DependencyDown]
    if operation.query is not None or operation.body is not None or operation.mutates:
        kinds.append(InvalidRequest)
    if operation.body is not None:
        kinds += [BodyTooLarge, UnsupportedMediaType]
    if operation.mutates:
        kinds += [Conflict, IdempotencyMismatch, StorageFull, BodyTooLarge]
    return kinds
