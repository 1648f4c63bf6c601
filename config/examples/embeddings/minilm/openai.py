"""What does an OpenAI embeddings request ask for, and how is it answered or refused."""

import base64
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from minilm.encoder import Floats

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384
INPUTS_MAX = 2048
FIELDS = ("input", "model", "encoding_format", "dimensions", "user")
STARTED_AT_S = int(time.time())


class Refusal(Exception):
    """A request that gets an error instead of vectors, in OpenAI's shape.

    Args:
        message: What is wrong and what to send instead.
        status: The HTTP status.
        param: The field at fault, if one is.
        code: OpenAI's word for it, if it has one.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class EmbeddingRequest(NamedTuple):
    """A legal request."""

    texts: list[str]
    model: str
    as_base64: bool


def parse(body: bytes) -> EmbeddingRequest:
    """Read a request body.

    Raises:
        Refusal: It is not a legal request; says which field and why.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"The body is not JSON ({error}). Send an object with the field 'input'.") from error
    if not isinstance(fields, dict):
        raise Refusal("The body must be a JSON object with the field 'input'.")
    for name in fields:
        if name not in FIELDS:
            known = ", ".join(FIELDS)
            raise Refusal(
                f"Unknown field {name!r}. This model takes: {known}.", param=name, code="unknown_parameter"
            )
    model = fields.get("model", MODEL)
    if not isinstance(model, str) or not model:
        raise Refusal("'model' must be a non-empty string.", param="model")
    encoding = fields.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Refusal("'encoding_format' must be 'float' or 'base64'.", param="encoding_format")
    dimensions = fields.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or dimensions != DIMENSIONS):
        raise Refusal(f"'dimensions' must be {DIMENSIONS}, the only size this model has.", param="dimensions")
    return EmbeddingRequest(texts=_texts(fields), model=model, as_base64=encoding == "base64")


def _texts(fields: dict[str, Any]) -> list[str]:
    """Check the field `input` and return it as a list."""
    if "input" not in fields:
        raise Refusal("'input' is missing. Send a string or a list of strings.", param="input")
    given = fields["input"]
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise Refusal("'input' must be a string or a list of strings.", param="input")
    if not 1 <= len(texts) <= INPUTS_MAX:
        raise Refusal(f"'input' must hold 1 to {INPUTS_MAX} strings, not {len(texts)}.", param="input")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            what = (
                "token ids belong to another model's vocabulary"
                if isinstance(text, int | list)
                else "got another type"
            )
            raise Refusal(f"'input[{index}]' must be a string ({what}).", param="input")
        if not text:
            raise Refusal(f"'input[{index}]' is empty. Send at least one character.", param="input")
    return texts


def answer(request: EmbeddingRequest, vectors: "Floats", *, tokens: int) -> dict[str, Any]:
    """Render the vectors of a request.

    Args:
        request: What was asked.
        vectors: One row a text, float32.
        tokens: Tokens the model read, all texts together.
    """
    rows: list[Any]
    if request.as_base64:
        rows = [base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode() for row in vectors]
    else:
        rows = vectors.tolist()
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def models() -> dict[str, Any]:
    """Render the list of models, which is one."""
    entry = {"id": MODEL, "object": "model", "created": STARTED_AT_S, "owned_by": "sentence-transformers"}
    return {"object": "list", "data": [entry]}
