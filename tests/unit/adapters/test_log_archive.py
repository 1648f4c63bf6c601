"""Questions about logs on disk: pages, filters, merging, cursors, budgets."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.adapters import log_archive
from gpud.adapters.log_archive import LogFileArchive
from gpud.adapters.log_files import LogFile, compress, folder_for
from gpud.core.log_cursor import LogCursor
from gpud.core.log_lines import LogStream, record, stamp_of
from gpud.errors import InvalidRequest
from gpud.ports.logs import LogPage, LogQuery, LogWindow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WORKERS = ["wk_" + letter * 16 for letter in "abc"]
BEGIN_NS = 1_790_000_000_000_000_000
LINES = 600
ALL = LogQuery(cursor=LogCursor(), limit=5000)


def _write(root: Path) -> list[str]:
    """Three workers in turns, in segments of 2 KB, all but the last of each compressed."""
    full: list[Path] = []
    files = [
        LogFile(
            folder_for(root, "llm" if i < 2 else "sd", worker, i + 1), segment_bytes=2048, rotated=full.append
        )
        for i, worker in enumerate(WORKERS)
    ]
    chance, texts = random.Random(7), []
    for n in range(LINES):
        stream = chance.choice([b"stdout", b"stderr", b"gpud"])
        text = f"n={n:04d} {'ERROR boom' if n % 10 == 0 else 'fine'} Ünïcode"
        texts.append(text)
        files[n % 3].append(record(stamp_of(BEGIN_NS + n * 1_000_000), stream, text.encode()))
    for file in files:
        file.close(over=False)
    for path in full:
        compress(path)
    return texts


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[LogFileArchive]:
    archive = LogFileArchive(tmp_path)
    yield archive
    await archive.close()


def _texts(page: LogPage) -> list[str]:
    return [found.line.text for found in page.lines]


@pytest.mark.parametrize("limit", [1, 7, 250, 5000])
async def test_pages_of_any_size_give_every_line_once_in_order(
    archive: LogFileArchive, tmp_path: Path, limit: int
) -> None:
    texts = _write(tmp_path)
    wanted = texts if limit > 1 else texts[:40]
    cursor, read = LogCursor(), []
    while True:
        page = await archive.read(replace(ALL, cursor=LogCursor.parse(cursor.spelled()), limit=limit))
        read += _texts(page)
        cursor = page.cursor
        if page.complete or len(read) >= len(wanted):
            break
    assert read == wanted


@pytest.mark.parametrize("limit", [0, 1, 5, 100, 5000])
async def test_the_newest_lines_and_what_comes_after_any_of_them(
    archive: LogFileArchive, tmp_path: Path, limit: int
) -> None:
    texts = _write(tmp_path)
    page = await archive.read(replace(ALL, cursor=None, limit=limit))
    shown = texts[-limit:] if limit else []
    assert _texts(page) == shown
    assert _texts(await archive.read(replace(ALL, cursor=page.cursor))) == []
    for index, found in list(enumerate(page.lines))[:: max(len(page.lines) // 3, 1)]:
        after = await archive.read(replace(ALL, cursor=LogCursor.parse(found.cursor.spelled())))
        assert _texts(after) == shown[index + 1 :]


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize(
    ("query", "takes"),
    [
        ({"endpoint": "sd"}, lambda n: n % 3 == 2),
        ({"endpoint": "llm"}, lambda n: n % 3 != 2),
        ({"windows": (LogWindow(worker_id=WORKERS[1]),)}, lambda n: n % 3 == 1),
        ({"grep": "ERROR"}, lambda n: n % 10 == 0),
        ({"grep": "error", "ignore_case": True}, lambda n: n % 10 == 0),
        ({"grep": "ünïcode", "ignore_case": True}, lambda _: True),
        ({"regex": r"n=00\d5"}, lambda n: n < 100 and n % 10 == 5),
        ({"regex": r"^n=0001.*"}, lambda n: n == 1),
        ({"grep": "n=001", "regex": "5 f"}, lambda n: n == 15),
        ({"since_ns": BEGIN_NS + 500_000_000}, lambda n: n >= 500),
        ({"until_ns": BEGIN_NS + 50_000_000}, lambda n: n < 50),
        ({"live": frozenset(WORKERS[:1]), "previous": True}, lambda n: n % 3 != 0),
        ({"live": frozenset(WORKERS[:1]), "current": True}, lambda n: n % 3 == 0),
        (
            {
                "windows": (
                    LogWindow(worker_id=WORKERS[0], since_ns=BEGIN_NS, until_ns=BEGIN_NS + 9_000_000),
                    LogWindow(worker_id=WORKERS[2], since_ns=BEGIN_NS + 590_000_000),
                )
            },
            lambda n: (n % 3 == 0 and n < 9) or (n % 3 == 2 and n >= 590),
        ),
    ],
)
async def test_filters(
    archive: LogFileArchive, tmp_path: Path, query: dict[str, object], takes: object, newest: bool
) -> None:
    texts = _write(tmp_path)
    page = await archive.read(replace(ALL, cursor=None if newest else LogCursor(), **query))  # type: ignore[arg-type]
    assert _texts(page) == [text for n, text in enumerate(texts) if takes(n)]  # type: ignore[operator]


async def test_streams(archive: LogFileArchive, tmp_path: Path) -> None:
    _write(tmp_path)
    found = {}
    for stream in LogStream:
        page = await archive.read(replace(ALL, streams=frozenset({stream})))
        assert {one.line.stream for one in page.lines} == {stream}
        found[stream] = len(page.lines)
    assert sum(found.values()) == LINES


async def test_a_search_over_its_budget_is_answered_in_parts(
    archive: LogFileArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path)
    monkeypatch.setattr(log_archive, "_BUDGET_BYTES", 3000)
    cursor, read, parts = LogCursor(), [], 0
    while parts < 100:
        page = await archive.read(replace(ALL, cursor=cursor, grep="n=0599"))
        read += _texts(page)
        cursor, parts = page.cursor, parts + 1
        if page.complete:
            break
    assert parts > 3
    assert [text[:6] for text in read] == ["n=0599"]


async def test_an_expression_made_to_explode_is_answered_at_once(
    archive: LogFileArchive, tmp_path: Path
) -> None:
    file = LogFile(folder_for(tmp_path, "llm", WORKERS[0], 1), segment_bytes=1 << 20, rotated=lambda _: None)
    file.append(record(stamp_of(BEGIN_NS), b"stdout", b"a" * 5000 + b"!"))
    file.close(over=False)
    began_s = time.monotonic()
    page = await archive.read(replace(ALL, regex=r"(a+)+$"))
    assert page.lines == ()
    assert time.monotonic() - began_s < 30  # what a backtracking engine takes is counted in ages


@pytest.mark.parametrize("regex", ["(", "a{1001}", r"(?=x)", "[z-a]"])
async def test_an_expression_that_cannot_be_used_is_refused(archive: LogFileArchive, regex: str) -> None:
    with pytest.raises(InvalidRequest, match="regex"):
        await archive.read(replace(ALL, regex=regex))


async def test_what_was_deleted_is_told_and_a_torn_record_is_left_out(
    archive: LogFileArchive, tmp_path: Path
) -> None:
    texts = _write(tmp_path)
    first = await archive.read(replace(ALL, limit=3))
    folder = folder_for(tmp_path, "llm", WORKERS[0], 1).path
    min(folder.iterdir()).unlink()
    page = await archive.read(replace(ALL, cursor=first.cursor))
    assert page.lost_bytes > 0
    assert set(_texts(page)) < set(texts)
    last = max(folder.iterdir())
    with last.open("ab") as file:
        file.write(b"2026-11-22T05:22:16.504")
    again = LogFile(folder_for(tmp_path, "llm", WORKERS[0], 1), segment_bytes=2048, rotated=lambda _: None)
    again.append(record(stamp_of(BEGIN_NS + 10**9), b"stdout", b"after"))
    again.close(over=False)
    page = await archive.read(replace(ALL, cursor=page.cursor))
    assert _texts(page) == ["after"]
