"""Reads bodies and parameters, and says of each fault where it is and what would be right."""

from __future__ import annotations

import asyncio
import difflib
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from gpud.errors import InvalidRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiohttp import web
    from pydantic_core import ErrorDetails

    from gpud.api.schemas.base import Document, Query

    Loc = tuple[int | str, ...]

D = TypeVar("D", bound="Document")
Q = TypeVar("Q", bound="Query")

BODY_TIMEOUT_S = 30.0
"""How long a body may take to arrive."""

_NOT_YET = {
    "secrets": "secrets are not part of this version; leave the list out",
}

_SENTENCES = {
    "missing": "is required",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "string_unicode": "must be text in UTF-8",
    "timezone_aware": "must be an RFC 3339 time with its zone, such as 2026-11-21T14:00:00Z",
    "datetime_type": "must be an RFC 3339 time such as 2026-11-21T14:00:00Z",
    "datetime_parsing": "must be an RFC 3339 time such as 2026-11-21T14:00:00Z",
    "datetime_from_date_parsing": "must be an RFC 3339 time such as 2026-11-21T14:00:00Z",
    "datetime_object_invalid": "must be an RFC 3339 time such as 2026-11-21T14:00:00Z",
}

_SENTENCES_WITH_FACTS = {
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


async def body_of(request: web.Request, model: type[D], *, error: type[InvalidRequest] = InvalidRequest) -> D:
    """Read a JSON body as `model`.

    Args:
        request: Whose body it is.
        model: What it must be.
        error: Raised when it is JSON and not that.

    Raises:
        UnsupportedMediaType: It does not say that it is JSON.
        BodyTooLarge: It is larger than the application reads.
        InvalidRequest: It is not JSON, or not what it must be; `fields` names each fault.
    """
    require_json(request)
    return document_from(await raw_body_of(request), model, error=error)


async def raw_body_of(request: web.Request) -> bytes:
    """Read a body to its end, which must come in time.

    Raises:
        InvalidRequest: It does not.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError as error:
        raise InvalidRequest(
            f"The body did not arrive whole within {BODY_TIMEOUT_S:g} s. Send it faster, and as long as "
            "its Content-Length says."
        ) from error


def require_json(request: web.Request, *also: str) -> None:
    """Refuse a body that does not say that it is JSON.

    Raises:
        UnsupportedMediaType: It says something else, or nothing.
    """
    accepted = ("application/json", *also)
    if request.content_type not in accepted:
        said = request.headers.get("Content-Type", "")[:100]
        what = f"The body is of type {said!r}." if said else "The body does not say of which type it is."
        raise UnsupportedMediaType(f"{what} Send JSON with the header Content-Type: {accepted[0]}.")


def document_from(
    raw: bytes, model: type[D], *, error: type[InvalidRequest] = InvalidRequest, what: str = "The body"
) -> D:
    """Read JSON text, which errors call `what`, as `model`.

    Raises:
        InvalidRequest: It is not JSON, or not what it must be; `fields` names each fault.
    """
    if not raw.strip():
        raise InvalidRequest(f"{what} is empty. Send a JSON object.")
    try:
        return model.model_validate_json(raw)
    except ValidationError as fault:
        raise _refusal(fault, model, what, error) from fault


def query_of(request: web.Request, model: type[Q]) -> Q:
    """Read the parameters behind the `?` as `model`.

    Raises:
        InvalidRequest: One is unknown, given twice, or not what it must be.
    """
    given = request.query
    twice = {name: "is given twice" for name in given if len(given.getall(name)) > 1}
    if twice:
        raise InvalidRequest(_listing("The parameters", twice), fields=twice)
    try:
        return model.model_validate(dict(given))
    except ValidationError as fault:
        raise _refusal(fault, model, "The parameters", InvalidRequest) from fault


def _refusal(
    fault: ValidationError, model: type[BaseModel], what: str, error: type[InvalidRequest]
) -> InvalidRequest:
    details = fault.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        why = details[0].get("ctx", {}).get("error", "")
        return InvalidRequest(f"{what} cannot be read as JSON: {why}.")
    inner = {detail["loc"][:-1] for detail in details}
    faults = {
        path_text(detail["loc"]): _sentence(detail, model)
        for detail in details
        # Items that are refused are not counted, which is not what is wrong with their list.
        if not (detail["type"] == "too_short" and detail["loc"] in inner)
    }
    return error(_listing(what, faults), fields=faults)


def _listing(what: str, faults: dict[str, str]) -> str:
    return f"{what} cannot be used: {'; '.join(f'{path}: {why}' for path, why in faults.items())}."


def path_text(loc: Sequence[int | str]) -> str:
    """Spell where a fault is, such as `scale.max_workers` or `volumes.0.target`."""
    return ".".join(str(part) for part in loc if part != "[key]") or "body"


def _sentence(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, loc, facts = detail["type"], detail["loc"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _about_unknown(loc, model)
    if kind == "literal_error" and loc == ("type",):
        return "must be 'http', for a server that gpud calls, or 'queue', for a worker that fetches its jobs"
    if kind == "value_error":
        return str(facts.get("error", detail["msg"]))
    if kind in _SENTENCES_WITH_FACTS:
        return _SENTENCES_WITH_FACTS[kind].format(**facts)
    return _SENTENCES.get(kind, detail["msg"])


def _about_unknown(loc: Loc, model: type[BaseModel]) -> str:
    """Suggest the name elsewhere in the document that is the same, else the one beside that is nearest."""
    name = str(loc[-1])
    if len(loc) == 1 and name in _NOT_YET:
        return _NOT_YET[name]
    section = ".".join(str(part) for part in loc[:-1] if isinstance(part, str))
    known = dict(_names_in(model))
    elsewhere = [path for path in known if path.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown field; did you mean {elsewhere[0]!r}?"
    beside = [path for path in known if path.rpartition(".")[0] == section]
    near = difflib.get_close_matches(name, [path.rpartition(".")[2] for path in beside], n=1, cutoff=0.6)
    if near:
        return f"unknown field; did you mean {near[0]!r}?"
    return f"unknown field; known here are {', '.join(path.rpartition('.')[2] for path in beside)}"


def _names_in(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _names_in(inner, f"{prefix}{name}.")
