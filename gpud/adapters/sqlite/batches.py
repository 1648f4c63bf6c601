"""Runs a batch of operations in one transaction: each in its own savepoint, many of a kind in one.

An operation is a function of the connection. One of a `Kind` can be run together with others of its class,
which costs a fraction: one statement for all of them instead of several for each, and one savepoint. When
that fails it is undone and each is run alone, so what is refused is refused alone either way.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

Operation = Callable[[sqlite3.Connection], T]
"""Runs on the connection's thread, inside a transaction; must not touch anything else."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an operation left no trace; stands where its result would."""

    error: Exception


class Mixed(Exception):
    """What operations of a kind found is not the same for all, so each must look for itself."""


class Kind(ABC):
    """An operation that can be run together with others of its class.

    Attributes:
        turn: When those of this class run in their batch: before the operations that are of no kind, by
            rising turn, when it is negative; after them when it is positive. Those of one class must not
            depend on the order among themselves.
    """

    __slots__ = ()
    turn: ClassVar[int]

    @abstractmethod
    def __call__(self, connection: sqlite3.Connection, /) -> Any:  # noqa: ANN401 - each class has its own
        """Run this one alone."""

    @classmethod
    @abstractmethod
    def together(cls, operations: Sequence[Any], connection: sqlite3.Connection) -> Sequence[Any]:
        """Run all of them; returns their results in order.

        Raises:
            Mixed: They must be run alone; what was done is undone.
        """


def commit(operations: Sequence[Operation[Any]], connection: sqlite3.Connection) -> list[Any]:
    """Run operations in one transaction and commit.

    Returns:
        What each operation gave, in order, or that it was `Refused` and left no trace.

    Raises:
        sqlite3.Error: Nothing of the whole batch is written.
    """
    outcomes: list[Any] = [None] * len(operations)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if len(operations) == 1:
            return [_run_only(operations[0], connection)]
        for kind, places in _turns(operations):
            if not (kind and _run_together(kind, places, operations, outcomes, connection)):
                _run_alone(places, operations, outcomes, connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _run_only(operation: Operation[Any], connection: sqlite3.Connection) -> Any:  # noqa: ANN401 - what it gave
    """Run the one operation of a batch: the transaction is its savepoint."""
    try:
        outcome = operation(connection)
    except Exception as error:  # noqa: BLE001 - it is handed to whoever asked
        _require_whole(error, connection)
        connection.execute("ROLLBACK")
        return Refused(error)
    connection.execute("COMMIT")
    return outcome


def _turns(operations: Sequence[Operation[Any]]) -> list[tuple[type[Kind] | None, list[int]]]:
    """Which operations are run together, by where they stand, in the order of running."""
    classes: dict[type[Any], list[int]] = {}
    for place, operation in enumerate(operations):
        classes.setdefault(type(operation), []).append(place)
    kinds = {found: places for found, places in classes.items() if issubclass(found, Kind)}
    others = sorted(place for found, places in classes.items() if found not in kinds for place in places)
    ordered = sorted(kinds, key=lambda kind: kind.turn)
    before = [(kind, kinds[kind]) for kind in ordered if kind.turn < 0]
    return [*before, (None, others), *((kind, kinds[kind]) for kind in ordered if kind.turn >= 0)]


def _run_alone(
    places: list[int],
    operations: Sequence[Operation[Any]],
    outcomes: list[Any],
    connection: sqlite3.Connection,
) -> None:
    for place in places:
        connection.execute("SAVEPOINT operation")
        try:
            outcomes[place] = operations[place](connection)
        except Exception as error:  # noqa: BLE001 - it is handed to whoever asked
            _undo(error, connection)
            outcomes[place] = Refused(error)
        connection.execute("RELEASE operation")


def _run_together(
    kind: type[Kind],
    places: list[int],
    operations: Sequence[Operation[Any]],
    outcomes: list[Any],
    connection: sqlite3.Connection,
) -> bool:
    """Run those of a kind in one go; False when each must be run alone."""
    if len(places) == 1:
        return False
    connection.execute("SAVEPOINT operation")
    try:
        results = kind.together([operations[place] for place in places], connection)
    except Exception as error:  # noqa: BLE001 - whoever is to blame is found when each runs alone
        _undo(error, connection)
        connection.execute("RELEASE operation")
        return False
    connection.execute("RELEASE operation")
    for place, result in zip(places, results, strict=True):
        outcomes[place] = result
    return True


def _undo(error: Exception, connection: sqlite3.Connection) -> None:
    """Undo to the savepoint; raises when the whole batch is spoilt."""
    _require_whole(error, connection)
    connection.execute("ROLLBACK TO operation")


def _require_whole(error: Exception, connection: sqlite3.Connection) -> None:
    """Raise what spoilt the whole batch."""
    # A full disk or a broken file concerns everyone; some errors also end the transaction.
    if not connection.in_transaction:
        raise error
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and (code & 0xFF) not in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR):
        raise error
