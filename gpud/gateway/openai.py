"""The little of OpenAI's API that routing needs: the model a body names, the list of models, errors."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from gpud.errors import InvalidRequest
from gpud.gateway.framing import ChunkedBody

if TYPE_CHECKING:
    from gpud.errors import GpudError
    from gpud.gateway.heads import RequestHead

MODEL_BODY_BYTES_MAX = 128 * 1024
"""Most of a body that is read to find its `model`."""

_JSON_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)
_TRUE = re.compile(rb"\s*true\b")
_FORM_MODEL = re.compile(rb'name="model"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,512})\r\n')
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def beginning(head: RequestHead, received: bytes) -> bytes:
    """Take what is read of a body, out of its chunks if it came in any."""
    if head.chunked:
        inside: list[bytes] = []
        ChunkedBody().take(received, inside)
        received = b"".join(inside)
    return received[:MODEL_BODY_BYTES_MAX]


def named_model(head: RequestHead, body: bytes) -> str:
    """Find the model a request names.

    Args:
        head: The request's head.
        body: Its beginning.

    Raises:
        InvalidRequest: It names none.
    """
    model = model_in_body(body, head.content_type.decode("latin-1"))
    if model is None:
        raise InvalidRequest("The body names no `model` in its first 128 KiB; add one.")
    return model


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


def streams(body: bytes) -> bool:
    """Whether a JSON body, or as much as there is of it, says `"stream": true` in its outermost object."""
    depth = 0
    key = b""
    for token in _JSON_TOKEN.finditer(body):
        text = token.group()
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif text == b":" and depth == 1 and key == b'"stream"':
            return _TRUE.match(body, token.end()) is not None
        key = text
    return False


def model_list(models: list[str]) -> bytes:
    """Render a list of models."""
    listed = [{"id": model, "object": "model", "created": 0, "owned_by": "gpud"} for model in models]
    return json.dumps({"object": "list", "data": listed}).encode()


def error_body(error: GpudError) -> bytes:
    """Render an error as OpenAI's clients expect it."""
    fault = {
        "message": error.detail,
        "type": _ERROR_TYPES.get(error.status, "server_error"),
        "param": "model" if error.status == 404 else None,
        "code": "model_not_found" if error.status == 404 else error.slug.replace("-", "_"),
    }
    return json.dumps({"error": fault}, separators=(",", ":")).encode()


def _json_string(text: bytes) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
