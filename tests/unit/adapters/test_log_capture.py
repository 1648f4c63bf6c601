"""The process that keeps workers' output, on a fake engine: from its file, and from its API."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from gpud.adapters import log_capture
from gpud.adapters.log_archive import LogFileArchive
from gpud.adapters.log_capture import ProcessLogCapture
from gpud.core.log_caps import LogCaps
from gpud.core.log_cursor import LogCursor
from gpud.core.log_lines import LogStream, stamp_of
from gpud.ports.logs import LogCounts, LogQuery
from tests.fakes.engine_logs import FakeEngineLogs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

WORKER = "wk_" + "a" * 16
NAME = f"gpud-{WORKER}"
CAPS = LogCaps(
    keep_s=86_400,
    worker_bytes=1 << 20,
    total_bytes=4 << 20,
    segment_bytes=4096,
    line_bytes=1024,
    rate_bytes_per_s=1 << 20,
    burst_bytes=1 << 20,
)


@dataclass(slots=True)
class Box:
    """An engine, and what keeps its containers' logs."""

    engine: FakeEngineLogs
    root: Path
    caps: LogCaps
    files: bool

    @asynccontextmanager
    async def capture(self) -> AsyncIterator[ProcessLogCapture]:
        capture = ProcessLogCapture(
            self.root, self.caps, engine=f"unix://{self.engine.path}", files=self.files
        )
        running = asyncio.create_task(capture.run())
        try:
            yield capture
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    async def read(self, **query: object) -> list[tuple[str, str]]:
        archive = LogFileArchive(self.root)
        page = await archive.read(replace(LogQuery(cursor=LogCursor(), limit=5000), **query))  # type: ignore[arg-type]
        await archive.close()
        return [(found.line.stream.value, found.line.text) for found in page.lines]

    async def until(
        self, holds: Callable[[list[tuple[str, str]]], bool], **query: object
    ) -> list[tuple[str, str]]:
        async with asyncio.timeout(20):
            while not holds(lines := await self.read(**query)):  # noqa: ASYNC110 - a process writes it
                await asyncio.sleep(0.02)
            return lines


@pytest.fixture(params=["file", "api"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    with FakeEngineLogs(tmp_path) as engine:
        yield Box(engine, tmp_path / "logs", CAPS, files=request.param == "file")


def _stamp(index: int) -> str:
    return stamp_of(1_790_000_000_000_000_000 + index * 1000).decode()


async def test_output_is_kept_once_through_restarts_with_secrets_gone_and_long_lines_cut(box: Box) -> None:
    container = box.engine.container(NAME)
    for i in range(50):
        container.write(_stamp(i), "stdout", f"line {i}\n")
    async with box.capture() as capture:
        capture.note(WORKER, "llm", at_ms=1, text="worker.requested")
        capture.begin(WORKER, "llm", ["hunter2hunter2"])
        await box.until(lambda lines: len(lines) == 51)
        process = capture._process
        assert process is not None
        process.kill()  # the next one, begun by `run`, goes on
        for i in range(50, 100):
            container.write(_stamp(i), "stdout", f"line {i}\n")
        await box.until(lambda lines: len(lines) == 101)
    for i in range(100, 150):
        container.write(_stamp(i), "stdout", f"line {i}\n")
    container.write(_stamp(150), "stderr", "a key hunter2")
    container.write(_stamp(151), "stderr", "hunter2 and more\n")
    container.write(_stamp(152), "stdout", "x" * 5000 + "\n")
    container.write(_stamp(153), "stderr", "no end")
    async with box.capture() as capture:
        capture.begin(WORKER, "llm", ["hunter2hunter2"])
        await box.until(lambda lines: len(lines) >= 153)
        container.ended = True
        assert await capture.finish(WORKER)
        capture.note(WORKER, "llm", at_ms=1, text="worker.gone key=hunter2hunter2\nnext")
        capture.end(WORKER)
        lines = await box.until(lambda lines: lines[-1][0] == "gpud", streams=frozenset())
    assert (
        sorted(lines[:1] + lines[-1:])
        == [
            ("gpud", "worker.gone key=[redacted] next"),
            ("gpud", "worker.requested"),
        ]
        or ("gpud", "worker.gone key=[redacted] next") in lines
    )
    assert [text for stream, text in lines if text.startswith("line ")] == [f"line {i}" for i in range(150)]
    assert ("stderr", "a key [redacted] and more") in lines
    assert ("stdout", "x" * 1024 + " [3976 more bytes left out]") in lines
    if box.files:  # an answer of the API that ends gives the line too
        assert sum(text == "no end" for _, text in lines) <= 1


async def test_a_flood_is_dropped_with_a_count_and_the_file_is_read_through_rotations(box: Box) -> None:
    box.caps = replace(CAPS, rate_bytes_per_s=1000, burst_bytes=20_000, segment_bytes=1 << 20)
    container = box.engine.container(NAME)
    async with box.capture() as capture:
        capture.begin(WORKER, "llm", [])
        container.write(_stamp(0), "stdout", "first\n")
        await box.until(bool)
        for i in range(1, 3001):
            container.write(_stamp(i), "stdout", f"flood {i}\n")
            if i == 1500:
                await box.until(lambda lines: len(lines) > 1)
                container.rotate()
        container.ended = True
        assert await capture.finish(WORKER)
        capture.end(WORKER)
        async with asyncio.timeout(20):
            while capture.counts().get(WORKER, LogCounts()).all_lines < 3001:  # noqa: ASYNC110 - a process tells
                await asyncio.sleep(0.02)
        counts = capture.counts()[WORKER]
        lines = await box.read()
    assert counts.all_lines == 3001
    assert counts.dropped_lines > 0
    assert counts.gaps == 0
    kept = [text for stream, text in lines if stream == "stdout"]
    assert len(kept) == counts.lines
    said = [text for stream, text in lines if stream == "gpud"]
    dropped = sum(
        int(word.removeprefix("lines=")) for t in said for word in t.split() if word.startswith("lines=")
    )
    assert dropped == counts.dropped_lines


async def test_full_files_are_compressed_and_the_oldest_go_when_there_are_too_many(box: Box) -> None:
    box.caps = replace(CAPS, worker_bytes=30_000)
    container = box.engine.container(NAME)
    async with box.capture() as capture:
        capture.begin(WORKER, "llm", [])
        for i in range(2000):
            container.write(_stamp(i), "stdout", f"line {i} {hashlib.sha256(str(i).encode()).hexdigest()}\n")
        container.ended = True
        assert await capture.finish(WORKER)
        capture.end(WORKER)

        def settled(_: object) -> bool:
            try:
                sizes = {path: path.stat().st_size for path in box.root.rglob("0*") if path.is_file()}
            except FileNotFoundError:  # the capture removed one while we looked
                return False
            packed = all(path.suffix == ".gz" for path in sizes)
            return bool(sizes) and packed and sum(sizes.values()) <= 30_000

        await box.until(settled)
        lines = await box.read()
    numbers = [int(text.split()[1]) for _, text in lines]
    assert numbers == list(range(2000 - len(numbers), 2000))
    assert 0 < len(numbers) < 2000
    newest = await box.read(cursor=None, limit=3)
    assert [text.split()[1] for _, text in newest] == ["1997", "1998", "1999"]


async def test_the_end_of_a_container_that_is_gone_is_told_at_once(box: Box) -> None:
    async with box.capture() as capture:
        capture.begin(WORKER, "llm", [])
        assert await capture.finish(WORKER)
        assert await capture.finish("wk_" + "b" * 16)
    assert await box.read(streams=frozenset({LogStream.STDOUT})) == []


async def test_an_end_that_cannot_be_read_is_waited_for_once(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = ProcessLogCapture(box.root, box.caps, engine="unix:///nowhere", files=True)
    capture.begin(WORKER, "llm", [])
    monkeypatch.setattr(log_capture, "_FINISH_LIMIT_S", 0.01)
    assert not await capture.finish(WORKER)
    monkeypatch.setattr(log_capture, "_FINISH_LIMIT_S", 600.0)
    assert not await capture.finish(WORKER)
    capture.end(WORKER)
    assert await capture.finish(WORKER)
