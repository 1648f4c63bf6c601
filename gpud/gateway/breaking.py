"""How an answer that has begun ends when it cannot be finished.

The client must not take it for whole. A chunked answer ends without its last chunk, any other with a
reset. Where the answer is a stream of events, one more event says why before that.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpud.core.problem import problem_document
from gpud.gateway import openai
from gpud.gateway.framing import ChunkedBody, EndlessBody

if TYPE_CHECKING:
    from gpud.errors import GpudError
    from gpud.gateway.exchange import Exchange
    from gpud.gateway.heads import ResponseHead

_EVENTS = b"text/event-stream"


def last_event(exchange: Exchange, answer: ResponseHead, error: GpudError) -> bytes:
    """Write the event that says why a stream of events ends, framed as the stream is.

    Returns:
        Empty where there is no such stream, or no event fits: inside a chunk, or in a body whose length was
        told.
    """
    body = exchange.connection.body if exchange.connection is not None else None
    raw = exchange.decodes or isinstance(body, EndlessBody)
    chunked = isinstance(body, ChunkedBody) and body.between_chunks
    if not (raw or chunked) or not is_event_stream(answer):
        return b""
    event = b"\n\n" + error_event(exchange, error)  # ends an event that the worker may have left unfinished
    return event if raw else b"%x\r\n%b\r\n" % (len(event), event)


def error_event(exchange: Exchange, error: GpudError) -> bytes:
    """Write the event that says what went wrong."""
    data = openai.error_body(error)
    if not exchange.head.target.startswith("/openai/"):
        document = problem_document(error, request_id=exchange.request_id)
        data = json.dumps(document, separators=(",", ":")).encode()
    return b"event: error\ndata: " + data + b"\n\n"


def is_event_stream(head: ResponseHead) -> bool:
    """Whether the answer's body is a stream of server-sent events."""
    for line in head.lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-type":
            return value.strip().lower().startswith(_EVENTS)
    return False
