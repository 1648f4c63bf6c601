from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gpud.adapters.sqlite as package
from gpud.adapters.sqlite.connection import open_memory
from gpud.adapters.sqlite.statements import ROWS_MAX, SQL, execute_rows, of_rows, parse

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

FOLDER = Path(package.__file__).parent
SOURCES = {path.name: path.read_text() for path in FOLDER.glob("*.py")}
WALKS = (
    "events_",
    "workers_page",
    "lease_holder",
    "leases_open",
    "segments_open",
    "workers_live",
    "jobs_page",
    "jobs_ready",
    "jobs_expired",
    "jobs_purge_due",
    "jobs_lapsed",
    "job_chunks",
    "job_by",
)
INDEXED = sorted(name for name in SQL if name.startswith(WALKS))


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = open_memory(install_id="12345678", at_ms=1)
    yield connection
    connection.close()


def plan(connection: sqlite3.Connection, name: str) -> str:
    named = dict.fromkeys(re.findall(r":(\w+)", SQL[name]))
    params = named or (None,) * len(set(re.findall(r"\?\d+", SQL[name])) or re.findall(r"\?", SQL[name]))
    return " | ".join(row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", params))


@pytest.mark.parametrize("name", SQL)
def test_every_statement_fits_the_schema(connection: sqlite3.Connection, name: str) -> None:
    plan(connection, name)


@pytest.mark.parametrize("name", SQL)
def test_every_statement_is_used(name: str) -> None:
    quoted = [f'"{name}"']
    # Event statements are chosen by what is filtered.
    if name.startswith("events_"):
        quoted += [f'"{name.removesuffix(suffix)}"' for suffix in ("_of_endpoint", "_of_worker")]
    assert any(quote in source for source in SOURCES.values() for quote in quoted)


@pytest.mark.parametrize("file", SOURCES)
def test_no_module_writes_sql_of_its_own(file: str) -> None:
    assert not re.search(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", SOURCES[file])


@pytest.mark.parametrize("name", INDEXED)
def test_listings_walk_an_index_and_sort_nothing(connection: sqlite3.Connection, name: str) -> None:
    found = plan(connection, name)
    assert "SEARCH" in found or "USING INDEX" in found
    assert "TEMP B-TREE" not in found


@pytest.mark.parametrize(
    "name", ["segments_last", "segments_begun_or_ended", "usage_hours", "usage_of_sessions"]
)
def test_reports_never_walk_all_segments(connection: sqlite3.Connection, name: str) -> None:
    steps = plan(connection, name).split(" | ")
    assert not [step for step in steps if step.startswith("SCAN") and "segment" in step]
    assert "INDEX usage_segment_ended (end_wall_ms>?)" not in steps
    if name == "segments_last":
        assert steps[0].startswith("SCAN w")


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="name a twice"):
        parse("-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;\n")


def test_comments_and_the_last_semicolon_are_left_out() -> None:
    assert parse("-- file\n\n-- name: a\n-- A sentence.\nSELECT 1\n  -- why\n  + 2;\n") == {
        "a": "SELECT 1\n  + 2"
    }


def test_a_statement_of_rows_is_spelled_with_as_many_as_asked_for() -> None:
    text = of_rows("job_payload_put", 3)
    assert text.count("(?, ?, ?, ?, ?, ?)") == 3
    assert text.replace(", (?, ?, ?, ?, ?, ?)", "") == SQL["job_payload_put"]


@pytest.mark.parametrize("count", [0, 1, 3, ROWS_MAX, 2 * ROWS_MAX + 7])
def test_rows_are_all_written_and_those_that_changed_are_counted(
    connection: sqlite3.Connection, count: int
) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")
    rows = [(seq, "input", "text/plain", 1, bytes([seq % 256]), None) for seq in range(count)]
    assert execute_rows(connection, "job_payload_put", rows) == count
    found = connection.execute("SELECT job_seq, content FROM job_payload ORDER BY job_seq").fetchall()
    assert [(row[0], row[1]) for row in found] == [(row[0], row[4]) for row in rows]
