from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gpud.core.events import RECORDED
from gpud.core.worker import WorkerState
from gpud.fleet.chronicle import VERBS

ROOT = Path(__file__).parents[3]


def test_every_move_of_a_worker_has_an_event_with_a_meaning() -> None:
    for state in WorkerState:
        if state is not WorkerState.PENDING:
            assert f"worker.{VERBS[state]}" in RECORDED


def test_every_event_the_fleet_names_is_listed_and_every_listed_one_is_named() -> None:
    named = set()
    for path in (*(ROOT / "gpud/fleet").glob("*.py"), ROOT / "gpud/adapters/sqlite/webhooks.py"):
        named |= set(
            re.findall(
                r'"((?:budget|daemon|endpoint|engine|gpu|image|rollout|standby|webhook|worker)\.[a-z_]+)"',
                path.read_text(),
            )
        )
    moves = {f"worker.{verb}" for verb in VERBS.values()}
    assert set(RECORDED) <= named | moves


def test_the_page_of_events_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts/lib/docs.py"), "events", "--check"]
    checked = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
