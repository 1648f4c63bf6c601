"""Brings jobs to workers by HTTP (port `JobCarrier`), and reads streamed answers as they come."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import aiohttp

from gpud.core.job_stream import ChunkCutter
from gpud.ports.jobs import Payload
from gpud.ports.work import HandoverFailed, WorkerAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.ports.work import Handover

ANSWER_BYTES_MAX = 64 << 20
_CONNECT_TIMEOUT_S = 5.0
_CANCEL_TIMEOUT_S = 2.0
_STATUS_TIMEOUT_S = 15.0
_FAILED = b'{"gpud_error":'
"""Begins the last line of a stream that failed in the middle; the worker SDK writes it."""
_STREAMS = ("text/event-stream", "application/x-ndjson", "application/jsonl")


class HttpJobCarrier:
    """One HTTP client for all deliveries; each has a connection for as long as it runs."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def deliver(self, handover: Handover, on_chunk: Callable[[bytes], None]) -> WorkerAnswer:
        """Send a job and wait for its answer; cancelling closes the connection.

        Raises:
            HandoverFailed: No answer came, or it is larger than any may be.
        """
        claim = handover.claim
        headers = {
            **handover.headers,
            "Content-Type": claim.payload.content_type,
            "User-Agent": "gpud",
        }
        try:
            async with self._client().post(
                _url(handover, handover.path),
                data=io.BytesIO(claim.payload.content),
                headers=headers,
                allow_redirects=False,
            ) as answer:
                kind = answer.content_type
                heard = {name.lower(): value for name, value in answer.headers.items()}
                if kind in _STREAMS and 200 <= answer.status < 300:
                    payload, failed = await _read_stream(answer, on_chunk, events=kind == _STREAMS[0])
                    status = 500 if failed else answer.status
                    return WorkerAnswer(status=status, headers=heard, payload=payload, streamed=True)
                content = await _read_whole(answer)
                said = answer.headers.get("Content-Type", "application/octet-stream")
                payload = Payload(content=content, content_type=said)
                return WorkerAnswer(status=answer.status, headers=heard, payload=payload)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            raise HandoverFailed(f"No connection to the worker: {error}", sent=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise HandoverFailed(f"The worker broke off: {error!r}", sent=True) from error

    async def ask_outcome(self, handover: Handover, status_path: str) -> WorkerAnswer:
        """Ask a worker what became of a job that it was given earlier.

        Raises:
            HandoverFailed: No answer came in time, or it is larger than any may be.
        """
        url = _url(handover, f"{status_path.rstrip('/')}/{handover.claim.job.id}")
        headers = {**handover.headers, "User-Agent": "gpud"}
        try:
            async with (
                asyncio.timeout(_STATUS_TIMEOUT_S),
                self._client().get(url, headers=headers, allow_redirects=False) as answer,
            ):
                content = await _read_whole(answer)
                said = answer.headers.get("Content-Type", "application/octet-stream")
                return WorkerAnswer(
                    status=answer.status,
                    headers={name.lower(): value for name, value in answer.headers.items()},
                    payload=Payload(content=content, content_type=said),
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise HandoverFailed(f"The worker did not say: {error!r}", sent=True) from error

    async def ask_to_stop(self, handover: Handover) -> None:
        """Ask a worker to stop a job; whatever it answers."""
        job = handover.claim.job
        try:
            async with (
                asyncio.timeout(_CANCEL_TIMEOUT_S),
                self._client().post(
                    _url(handover, handover.cancel_path), json={"id": job.id}, headers=handover.headers
                ),
            ):
                pass
        except (aiohttp.ClientError, OSError, TimeoutError):
            return

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A connection each: a worker that closes an idle one just then would look as if it had died.
            connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False, force_close=True)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=True, trust_env=False
            )
        return self._session


def _url(handover: Handover, path: str) -> str:
    worker = handover.worker
    return f"http://{worker.address}:{worker.port}{path}"


async def _read_whole(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise HandoverFailed(f"The worker's answer has more than {ANSWER_BYTES_MAX} bytes", sent=True)
    return b"".join(parts)


async def _read_stream(
    answer: aiohttp.ClientResponse, on_chunk: Callable[[bytes], None], *, events: bool
) -> tuple[Payload, bool]:
    """Report each line, or each event, as it comes; returns all of them as one JSON array.

    A line that says so ends a stream that failed after its status was sent: it is returned in place of the
    array, with True.
    """
    cutter, chunks, size = ChunkCutter(events=events), list[bytes](), 0

    def take(found: list[bytes]) -> None:
        nonlocal size
        size += sum(map(len, found))
        if size > ANSWER_BYTES_MAX:
            raise HandoverFailed(f"The worker's stream has more than {ANSWER_BYTES_MAX} bytes", sent=True)
        chunks.extend(found)
        for chunk in found:
            if not chunk.startswith(_FAILED):
                on_chunk(chunk)

    try:
        async for part in answer.content.iter_any():
            take(cutter.take(part))
        take(cutter.end())
    except ValueError as error:
        raise HandoverFailed(f"The worker's answer cannot be kept: {error}", sent=True) from error
    if chunks and chunks[-1].startswith(_FAILED):
        return Payload(content=chunks[-1]), True
    return Payload(content=b"[" + b",".join(chunks) + b"]"), False
