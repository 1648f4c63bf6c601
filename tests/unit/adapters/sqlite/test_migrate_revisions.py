from __future__ import annotations

import sqlite3
from contextlib import closing

from gpud.adapters.sqlite.migrate import migrate, migrations

_REVISION = "INSERT INTO endpoint_revision VALUES (?, ?, '{}', '{}', ?)"
_ENDPOINT = "INSERT INTO endpoint VALUES (?, ?, '{}', '{}', 1, 2)"
_WORKER = """
INSERT INTO worker VALUES (
    'wk_1', 'a', 'new', 'gone', 3, 0, 0, 8000, '[]', '', 'idle', '', 0, 0, NULL, 4.5, 0, 0, 0
)
"""


def test_revisions_from_before_there_were_rollouts_are_numbered_by_age_and_told_apart() -> None:
    steps = migrations()
    before = next(step.version for step in steps if step.name.endswith("_rollouts.sql")) - 1
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, steps[:before])
        for name, revision, at_ms in (("a", "old", 1), ("a", "new", 2), ("b", "only", 1)):
            connection.execute(_REVISION, (name, revision, at_ms))
        connection.execute(_ENDPOINT, ("a", "new"))
        connection.execute(_WORKER)
        migrate(connection, steps)
        found = connection.execute(
            "SELECT endpoint, revision, number, state, ready_at_ms FROM endpoint_revision "
            "ORDER BY endpoint, number"
        ).fetchall()
    assert found == [
        ("a", "old", 1, "superseded", 0),
        ("a", "new", 2, "current", 2),
        ("b", "only", 1, "superseded", 0),
    ]
