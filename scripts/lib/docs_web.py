"""Writes the shapes of the API's answers as TypeScript, so that the dashboard is compiled against the API."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gpud.api.app import ALL_OPERATIONS
from gpud.api.openapi import openapi_document

ROOT = Path(__file__).parents[2]
_REF = "#/components/schemas/"
_HEAD = """\
// The shapes of the API's answers. Written by `scripts/docs web` from the code; do not edit.
"""
_ROOTS = (
    "State",
    "Endpoint",
    "EndpointSpec",
    "DryRun",
    "StartList",
    "StatsPage",
    "JobPage",
    "JobDetail",
    "EventPage",
    "LogPage",
    "Usage",
    "KeyPage",
    "NewKey",
    "OwnKey",
    "RevisionPage",
    "System",
    "ImagePage",
    "ImageGc",
    "Prewarmed",
    "RegistryPage",
    "WebhookPage",
    "NewWebhook",
    "DeliveryPage",
    "DeliveryDetail",
    "BudgetList",
    "AuditLogPage",
    "TemplateList",
    "Problem",
)
"""What the dashboard asks for; what these refer to follows."""

Json = dict[str, Any]


def web_files() -> dict[Path, str]:
    """The dashboard's types."""
    schemas = openapi_document(ALL_OPERATIONS, version="0")["components"]["schemas"]
    wanted = dict.fromkeys(_ROOTS)
    for name in (queue := list(_ROOTS)):
        for found in re.findall(_REF + r"(\w+)", json.dumps(schemas[name])):
            if found not in wanted:
                wanted[found] = None
                queue.append(found)
    blocks = [_block(name, schemas[name]) for name in sorted(wanted)]
    return {ROOT / "web/src/api/types.ts": _HEAD + "".join(blocks)}


def _block(name: str, schema: Json) -> str:
    if schema.get("type") != "object" or "properties" not in schema:
        return f"\nexport type {name} = {_type(schema)};\n"
    fields = "".join(f"  {field}: {_type(inner)};\n" for field, inner in schema["properties"].items())
    return f"\nexport interface {name} {{\n{fields}}}\n"


def _type(schema: Json) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_REF)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(_type(inner) for inner in schema[several]))
    if words := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " | ".join(json.dumps(word) for word in words)
    plain = schema.get("type")
    if isinstance(plain, list):
        return " | ".join(_plain(one, schema) for one in plain)
    return _plain(plain, schema)


def _plain(plain: str | None, schema: Json) -> str:
    match plain:
        case "array":
            inner = _type(schema.get("items", {}))
            return f"readonly ({inner})[]" if " " in inner else f"readonly {inner}[]"
        case "object":
            more = schema.get("additionalProperties")
            return f"Readonly<Record<string, {_type(more) if isinstance(more, dict) else 'unknown'}>>"
        case "integer" | "number":
            return "number"
        case "string" | "boolean" | "null":
            return plain
        case _:
            return "unknown"
