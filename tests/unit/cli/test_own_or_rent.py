from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.cli import exits
from gpud.cli.own_or_rent import read_offers

if TYPE_CHECKING:
    from tests.unit.cli.canned import CannedDaemon
    from tests.unit.cli.conftest import Gpud

EXAMPLE = Path(__file__).parents[3] / "config/own-or-rent.toml"
REPORT = {
    "by": "gpu",
    "since": "2026-11-01T00:00:00.000Z",
    "until": "2026-11-11T00:00:00.000Z",
    "items": [
        {"key": "GPU-1", "gpu_ms": 36_000_000},
        {"key": "GPU-2", "gpu_ms": 0},
        {"key": "GPU-gone", "gpu_ms": 3_600_000},
    ],
}


def answers(daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/usage", REPORT)
    gpus: list[dict[str, object]] = [
        {"uuid": uuid, "name": "NVIDIA H100 80GB HBM3"} for uuid in ("GPU-1", "GPU-2")
    ]
    daemon.lists("/v1/gpus", *gpus)


def test_the_example_price_list_can_be_used_and_its_last_entry_fits_all() -> None:
    currency, offers = read_offers(EXAMPLE)
    assert currency == "EUR"
    assert offers[-1].fits("any GPU at all")
    assert offers[0].fits("NVIDIA H100 80GB HBM3")


def test_use_is_compared_model_by_model(gpud: Gpud, daemon: CannedDaemon) -> None:
    answers(daemon)
    ran = gpud("usage", "--compare", str(EXAMPLE), "--since", "2026-11-01")
    assert daemon.seen[0].query == {"by": "gpu", "since": "2026-11-01T00:00:00.000Z"}
    head, gone, h100 = ran.out.splitlines()
    assert "OWN EUR" in head
    assert gone.startswith("(no longer in the box)")
    assert h100.startswith("NVIDIA H100 80GB HBM3")
    assert "2.1%" in h100
    assert "rent used" in h100
    rows = json.loads(gpud("usage", "--compare", str(EXAMPLE), "--since", "30d", "--json").out)["items"]
    assert rows[1]["rent_used_micros"] == 40_000_000
    assert rows[1]["rent_always_micros"] == 2 * 240 * 2_400_000


def test_a_model_without_a_price_is_named(gpud: Gpud, daemon: CannedDaemon, tmp_path: Path) -> None:
    answers(daemon)
    path = tmp_path / "prices.toml"
    path.write_text(EXAMPLE.read_text().replace('gpu = ""', 'gpu = "L4"'))
    ran = gpud("usage", "--compare", str(path), "--since", "30d")
    assert "has no price for (no longer in the box)." in ran.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kwh_micros = ", "cannot be read"),
        ('currency = "EUR"', "kwh_micros"),
        ("LIFE", "life_years"),
        ("WATTS", "watts_busy"),
        ("MORE", "surprise"),
    ],
)
def test_a_price_list_that_cannot_be_used_says_what_is_wrong(
    text: str, told: str, gpud: Gpud, tmp_path: Path
) -> None:
    changes = {
        "LIFE": ("life_years = 5", "life_years = 0"),
        "WATTS": ("watts_busy = 650", "watts_busy = -1"),
        "MORE": ("watts_busy = 650", "watts_busy = 650\nsurprise = 1"),
    }
    path = tmp_path / "prices.toml"
    path.write_text(EXAMPLE.read_text().replace(*changes[text], 1) if text in changes else text)
    ran = gpud("usage", "--compare", str(path), "--since", "30d")
    assert ran.code == exits.BAD_USAGE
    assert told in ran.err


def test_a_comparison_without_a_period_is_bad_usage(gpud: Gpud) -> None:
    assert gpud("usage", "--compare", str(EXAMPLE)).code == exits.BAD_USAGE
