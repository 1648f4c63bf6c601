"""What `gpud backup` and `gpud restore` say."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock
from gpud.cli import exits

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Gpud


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gpud.toml"
    path.write_text(f'[paths]\ndata_dir = "{tmp_path}/data"\n')

    async def start_once() -> None:
        store = await open_store(tmp_path / "data", SystemClock())
        await store.close()

    asyncio.run(start_once())
    return path


def test_a_backup_and_its_restore_say_what_they_did_and_what_is_left_to_do(
    gpud: Gpud, config: Path, tmp_path: Path
) -> None:
    ran = gpud("backup", str(tmp_path / "b.tar"), "--config", str(config))
    assert ran.code == exits.OK
    assert "no daemon runs" in ran.out
    assert "holds secrets: the master key" in ran.err
    ran = gpud("restore", str(tmp_path / "b.tar"), "--config", str(config))
    assert ran.code == exits.OK
    assert "before-restore-" in ran.out
    assert "from-backup: gpud.toml" in ran.err
    assert "run again" in ran.err
    told = json.loads(
        gpud("restore", str(tmp_path / "b.tar"), "--data-dir", str(tmp_path / "x"), "--json").out
    )
    assert (told["aside"], told["manifest"]["files"]) == ("", {"gpud.toml": str(config)})


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("backup", "{}/x.tar", "--config", "{}/none.toml"), exits.BAD_USAGE, "does not exist"),
        (("backup", "{}/x.tar", "--data", "y"), exits.BAD_USAGE, ""),
        (("restore", "{}/gpud.toml", "--data-dir", "{}/x"), exits.FAILED, "it is no whole tar"),
        (("restore", "{}/none.tar", "--data-dir", "{}/x"), exits.FAILED, "No such file"),
    ],
)
def test_what_cannot_be_backed_up_or_restored_is_said(
    words: tuple[str, ...], code: int, said: str, gpud: Gpud, config: Path
) -> None:
    ran = gpud(*(word.format(config.parent) for word in words))
    assert ran.code == code
    assert said in ran.err
