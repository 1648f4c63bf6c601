from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from gpud.adapters.sqlite.batches import Kind, Mixed, Refused, commit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Insert(Kind):
    turn: ClassVar[int] = -1
    batches: ClassVar[list[int]] = []

    def __init__(self, x: int) -> None:
        self.x = x

    def __call__(self, connection: sqlite3.Connection, /) -> int:
        if self.x < 0:
            raise ValueError(self.x)
        connection.execute("INSERT INTO t VALUES (?)", (self.x,))
        return self.x

    @classmethod
    def together(cls, operations: Sequence[Insert], connection: sqlite3.Connection) -> list[int]:
        cls.batches.append(len(operations))
        if any(step.x == 7 for step in operations):
            connection.execute("INSERT INTO t VALUES (700)")
            raise Mixed
        return [step(connection) for step in operations]


class Count(Kind):
    turn: ClassVar[int] = 1

    def __call__(self, connection: sqlite3.Connection, /) -> int:
        return count(connection)

    @classmethod
    def together(cls, operations: Sequence[Count], connection: sqlite3.Connection) -> list[int]:
        return [count(connection) for _ in operations]


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    Insert.batches.clear()
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY) STRICT")
    yield connection
    connection.close()


def test_those_of_a_kind_run_together_in_their_turn_and_are_answered_in_order(
    connection: sqlite3.Connection,
) -> None:
    outcomes = commit([Count(), count, Insert(1), Count(), Insert(2), count], connection)
    assert outcomes == [2, 2, 1, 2, 2, 2]
    assert Insert.batches == [2]


def test_one_of_a_kind_runs_alone(connection: sqlite3.Connection) -> None:
    assert commit([Insert(1), count], connection) == [1, 1]
    assert Insert.batches == []


def test_one_that_is_refused_among_many_of_its_kind_is_refused_alone(connection: sqlite3.Connection) -> None:
    outcomes: list[Any] = commit([Insert(1), Insert(-1), Insert(1), Insert(2)], connection)
    assert [type(outcome) for outcome in outcomes] == [int, Refused, Refused, int]
    assert isinstance(outcomes[1].error, ValueError)
    assert isinstance(outcomes[2].error, sqlite3.IntegrityError)
    assert count(connection) == 2


def test_those_that_cannot_be_answered_alike_run_alone_after_what_was_begun_is_undone(
    connection: sqlite3.Connection,
) -> None:
    assert commit([Insert(7), Insert(8), count], connection) == [7, 8, 2]
    assert Insert.batches == [2]


def test_the_only_one_of_a_batch_that_is_refused_leaves_no_trace(connection: sqlite3.Connection) -> None:
    def halfway(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        raise ValueError("no")

    (outcome,) = commit([halfway], connection)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, ValueError)
    assert not connection.in_transaction
    assert count(connection) == 0
    assert commit([Insert(1)], connection) == [1]
    assert isinstance(commit([Insert(1)], connection)[0], Refused)
    assert not connection.in_transaction
    assert count(connection) == 1


@pytest.mark.parametrize("others", [[Insert(1), Insert(2)], []])
def test_a_full_database_refuses_the_whole_batch(
    connection: sqlite3.Connection, others: list[Insert]
) -> None:
    connection.execute("CREATE TABLE big (b BLOB)")
    connection.execute("PRAGMA max_page_count = 4").fetchone()

    def too_much(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO big VALUES (zeroblob(100000))")

    with pytest.raises(sqlite3.OperationalError, match="full"):
        commit([*others[:1], too_much, *others[1:]], connection)
    assert not connection.in_transaction
    assert count(connection) == 0
