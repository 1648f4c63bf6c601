"""`gpud simulate`: a table of what happened and what would have, and its questions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gpud.cli.commands.simulate import COMMANDS
from gpud.core.endpoint import ScalePolicy
from tests.unit.cli.canned import problem

if TYPE_CHECKING:
    from tests.unit.cli.canned import CannedDaemon
    from tests.unit.cli.conftest import Gpud

PATH = "/v1/endpoints/llm/simulate"


def _outcome(**changes: Any) -> dict[str, Any]:
    plain = {
        "requests": 1200,
        "unserved": 1,
        "wait_ms_p50": 0,
        "wait_ms_p95": 61_000,
        "wait_ms_max": 90_000,
        "cold_starts": 40,
        "wakes": 17,
        "gpu_ms": 7_200_000,
        "cost_micros": 3_500_000,
    }
    return {**plain, **changes}


REPORT: dict[str, Any] = {
    "endpoint": "llm",
    "since": "2026-11-15T00:00:00.000Z",
    "until": "2026-11-22T00:00:00.000Z",
    "currency": "EUR",
    "actual": _outcome(),
    "present": _outcome(cold_starts=41),
    "changed": _outcome(cold_starts=3, gpu_ms=10_800_000),
    "assumed": ["No way back from sleeping is on record: 2 s are assumed."],
}


def test_what_happened_stands_above_what_would_have(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", PATH, REPORT)
    ran = gpud("simulate", "llm", "--idle-timeout", "300", "--max-workers", "2", "--policy", "queue_delay")
    assert ran.code == 0
    happened, replayed, changed = ran.out.splitlines()[-3:]
    assert "happened" in happened
    assert "40" in happened
    assert "17" in happened
    assert "2 s are assumed" in ran.err
    assert "replayed as it is" in replayed
    assert "with the changes" in changed
    assert "3.000" in changed
    assert "COST EUR" in ran.out
    asked = json.loads(daemon.seen[-1].body)
    assert asked == {"scale": {"idle_timeout_s": 300, "max_workers": 2, "policy": "queue_delay"}}


def test_without_a_change_it_says_what_can_be_changed(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", PATH, {**REPORT, "changed": None})
    ran = gpud("simulate", "llm", "--since", "2026-11-20")
    assert "--idle-timeout" in ran.err
    assert "with the changes" not in ran.out
    assert json.loads(daemon.seen[-1].body) == {"since": "2026-11-20T00:00:00.000Z"}


def test_the_json_is_the_apis_own(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", PATH, REPORT)
    assert json.loads(gpud("simulate", "llm", "--json").out) == REPORT


def test_a_fault_is_told_under_the_options_name(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", PATH, problem(422, "invalid-spec", fields={"scale.max_workers": "must be 0 to 1000"}))
    assert "--max-workers" in gpud("simulate", "llm", "--max-workers", "9999").err


def test_every_option_sets_a_field_of_the_scale_policy() -> None:
    for option in COMMANDS[0].options:
        if option.field:
            section, _, name = option.field.partition(".")
            assert section == "scale"
            assert hasattr(ScalePolicy(), name)
