"""Which upstream does a request go to? A pure function of its target and the routing table."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.ids import ENDPOINT_NAME, EndpointName
from gpud.errors import NotFound

if TYPE_CHECKING:
    from gpud.core.routing import Route, RoutingTable

MODEL_BODY_BYTES_MAX = 128 * 1024
"""Most of a body that is read to find its `model`."""

_ENDPOINT_PATH = re.compile(r"/e/([^/?]+)(.*)", re.DOTALL)
_OPENAI_PREFIX = "/openai/v1"
_JSON_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)
_FORM_MODEL = re.compile(rb'name="model"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,512})\r\n')


@dataclass(frozen=True, slots=True)
class ToEndpoint:
    """Forward to a worker of the endpoint, with this request target."""

    name: EndpointName
    target: str


@dataclass(frozen=True, slots=True)
class ByModel:
    """Read `model` in the body, then forward with this request target."""

    target: str


@dataclass(frozen=True, slots=True)
class ModelList:
    """Answer with the models the key may call; wakes nothing."""


@dataclass(frozen=True, slots=True)
class ToControl:
    """Hand to the control API, unchanged."""


Upstream = ToEndpoint | ByModel | ModelList | ToControl
CONTROL = ToControl()
MODELS = ModelList()


def choose_upstream(method: str, target: str) -> Upstream:
    """Decide from method and origin-form target alone; the names are looked up afterwards.

    `/e/<endpoint>/rest?query` is forwarded as `/rest?query`, `/e/<endpoint>` as `/`. The path is
    passed on as it was written: it is neither decoded nor normalised.
    """
    if target.startswith("/e/"):
        found = _ENDPOINT_PATH.match(target)
        if found is not None:
            name, rest = found.groups()
            return ToEndpoint(EndpointName(name), rest if rest.startswith("/") else "/" + rest)
    elif target.startswith(_OPENAI_PREFIX):
        path = target.partition("?")[0]
        if path == "/openai/v1/models" and method in ("GET", "HEAD"):
            return MODELS
        if path.startswith("/openai/v1/") and method == "POST":
            return ByModel(target.removeprefix("/openai"))
    return CONTROL


def find_route(table: RoutingTable, name: EndpointName) -> Route:
    """Look an endpoint up.

    Raises:
        NotFound: None of that name.
    """
    route = table.routes.get(name)
    if route is None:
        shown = name if ENDPOINT_NAME.match(name) else "that name"
        raise NotFound(f"There is no endpoint named {shown}. `gpud endpoint ls` lists them.")
    return route


def find_model(table: RoutingTable, model: str) -> EndpointName:
    """Look an OpenAI model name up: an alias first, then an endpoint's own name.

    Raises:
        NotFound: Neither.
    """
    name = table.aliases.get(model)
    if name is not None:
        return name
    if EndpointName(model) in table.routes:
        return EndpointName(model)
    known = ", ".join(sorted({*table.aliases, *table.routes})[:20]) or "none"
    raise NotFound(f"The model {model[:120]!r} is served by no endpoint. Models here: {known}.")


def model_in_body(body: bytes, content_type: str) -> str | None:
    """Find `model` in the first part of a JSON or form body, or None.

    The body may be cut anywhere. In JSON only the outermost object counts.
    """
    if content_type.startswith("multipart/"):
        field = _FORM_MODEL.search(body)
        return field.group(1).decode("utf-8", "replace") if field is not None else None
    depth = 0
    key = b""
    after_colon = False
    for token in _JSON_TOKEN.finditer(body):
        text = token.group()
        match text:
            case b"{" | b"[":
                depth += 1
                key, after_colon = b"", False
            case b"}" | b"]":
                depth -= 1
                key, after_colon = b"", False
            case b":":
                after_colon = True
            case b",":
                key, after_colon = b"", False
            case _ if depth == 1 and after_colon and key == b'"model"':
                return _json_string(text)
            case _ if depth == 1 and not after_colon:
                key = text
            case _:
                pass
    return None


def _json_string(text: bytes) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
