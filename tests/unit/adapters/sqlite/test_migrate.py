from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import gpud.adapters.sqlite as package
from gpud.adapters.sqlite.connection import open_writer
from gpud.adapters.sqlite.migrate import APPLICATION_ID, Migration, migrate, migrations
from gpud.errors import StoreUnusable

SCHEMA = Path(package.__file__).parent / "schema.sql"
NEXT = len(migrations()) + 1
STATEMENTS = (
    "CREATE TABLE fruit (name TEXT PRIMARY KEY NOT NULL) STRICT;",
    "INSERT INTO fruit VALUES ('apple');",
    "ALTER TABLE install ADD COLUMN note TEXT;",
    "UPDATE install SET note = 'migrated';",
)


def step(*statements: str, version: int = NEXT) -> Migration:
    return Migration(version=version, name=f"{version:04d}_test.sql", script="\n".join(statements))


def shape(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    ).fetchall()
    # A column that a migration adds comes without the line breaks of those before it.
    closed = [tuple(re.sub(r"\s*([(),])\s*", r"\1", str(value)) for value in row) for row in rows]
    return [tuple(re.sub(r"\s+", " ", value) for value in row) for row in closed]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gpud.db"
    open_writer(path, install_id="12345678", at_ms=1).close()
    return path


@pytest.fixture
def connection(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def test_the_migrations_build_exactly_the_schema() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as migrated:
        migrate(migrated, migrations())
        with closing(sqlite3.connect(":memory:")) as direct:
            direct.executescript(SCHEMA.read_text())
            assert shape(migrated) == shape(direct)
            assert len(shape(direct)) > 20


def test_a_new_database_says_whose_and_of_which_version_it_is(connection: sqlite3.Connection) -> None:
    with closing(connection):
        assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(migrations())


def test_every_table_is_strict(connection: sqlite3.Connection) -> None:
    with closing(connection):
        tables = connection.execute("PRAGMA table_list").fetchall()
    lax = [name for _schema, name, _type, _columns, _rowid, strict in tables if not strict]
    assert all(name.startswith("sqlite_") for name in lax)


def test_nothing_is_done_and_copied_when_nothing_is_missing(
    connection: sqlite3.Connection, path: Path
) -> None:
    with closing(connection):
        assert migrate(connection, migrations(), path=path) == (NEXT - 1, NEXT - 1)
    assert [file.name for file in path.parent.iterdir()] == ["gpud.db"]


def test_a_step_is_applied_after_a_copy_was_kept(connection: sqlite3.Connection, path: Path) -> None:
    with closing(connection):
        before = shape(connection)
        assert migrate(connection, [*migrations(), step(*STATEMENTS)], path=path) == (NEXT - 1, NEXT)
        assert connection.execute("SELECT name FROM fruit").fetchall() == [("apple",)]
    copy_path = path.with_name(f"gpud.db.before-{NEXT:04d}")
    assert copy_path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy_path)) as copy:
        assert copy.execute("PRAGMA user_version").fetchone()[0] == NEXT - 1
        assert shape(copy) == before
        assert copy.execute("SELECT install_id FROM install").fetchall() == [("12345678",)]


@pytest.mark.parametrize("position", range(len(STATEMENTS) + 1))
def test_a_step_that_fails_anywhere_changes_nothing(
    connection: sqlite3.Connection, path: Path, position: int
) -> None:
    broken = [*STATEMENTS[:position], "INSERT INTO nowhere VALUES (1);", *STATEMENTS[position:]]
    with closing(connection):
        before = shape(connection)
        with pytest.raises(StoreUnusable, match=r"could not be brought to schema .* as it was before"):
            migrate(connection, [*migrations(), step(*broken)], path=path)
        assert shape(connection) == before
        assert connection.execute("PRAGMA user_version").fetchone()[0] == NEXT - 1
        assert not connection.in_transaction


def test_a_step_that_leaves_dangling_rows_changes_nothing(connection: sqlite3.Connection, path: Path) -> None:
    orphan = (
        "INSERT INTO gpu_lease (gpu_uuid, worker_id, boot_id, leased_boot_ns) VALUES ('g', 'none', 'b', 1);"
    )
    with closing(connection):
        with pytest.raises(StoreUnusable, match="rows of gpu_lease refer to missing rows of worker"):
            migrate(connection, [*migrations(), step(orphan)], path=path)
        assert connection.execute("SELECT count(*) FROM gpu_lease").fetchone() == (0,)


def test_of_two_steps_the_first_stays_when_the_second_fails(
    connection: sqlite3.Connection, path: Path
) -> None:
    with closing(connection):
        with pytest.raises(StoreUnusable):
            migrate(
                connection, [*migrations(), step(*STATEMENTS), step("nonsense;", version=NEXT + 1)], path=path
            )
        assert connection.execute("PRAGMA user_version").fetchone()[0] == NEXT


def test_a_database_of_a_newer_gpud_is_refused(connection: sqlite3.Connection, path: Path) -> None:
    with closing(connection):
        connection.execute(f"PRAGMA user_version = {NEXT + 6}")
        with pytest.raises(
            StoreUnusable, match=f"written by a newer gpud .schema {NEXT + 6}, this one knows"
        ):
            migrate(connection, migrations(), path=path)


def test_migration_numbers_follow_each_other_from_one() -> None:
    assert [each.version for each in migrations()] == list(range(1, NEXT))
