from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.gpu_choice import choose_gpus
from gpud.settings import GpuSettings, StaticGpu
from tests.rig.nvml_stand_in import NvmlStandIn, stand_in_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[3]
CARDS = (StaticGpu(uuid="card-0"),)

# What is loaded in a process stays loaded, so each case is a process of its own.
SCRIPT = """
import sys
from gpud.adapters.gpu_choice import choose_gpus
from gpud.adapters.nvml_gpus import NvmlMissing, nvml_loads
from gpud.settings import GpuSettings, StaticGpu
cards = (StaticGpu(uuid="card-0"),) if sys.argv[2] == "cards" else ()
try:
    print(choose_gpus(GpuSettings(source=sys.argv[1], static=cards)).source, nvml_loads())
except NvmlMissing as error:
    print("missing", error.detail)
"""


def said(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def without_nvml() -> None:
    if said("auto", "").endswith("True"):
        pytest.skip("this machine has NVML")


@pytest.mark.usefixtures("without_nvml")
@pytest.mark.parametrize(("declared", "source"), [("cards", "static"), ("", "none")])
def test_auto_without_nvml_takes_the_declared_gpus_if_any(declared: str, source: str) -> None:
    assert said("auto", declared) == f"{source} False"


@pytest.mark.usefixtures("without_nvml")
def test_nvml_where_there_is_none_says_what_to_do() -> None:
    message = said("nvml", "cards")
    assert message.startswith("missing libnvidia-ml.so.1 cannot be loaded")
    assert "Install the NVIDIA driver, or set gpus.source to 'static' or 'none'" in message


def test_auto_with_nvml_takes_it_even_when_gpus_are_declared(tmp_path: Path) -> None:
    assert said("auto", "cards", env=NvmlStandIn(tmp_path, stand_in_gpus(1)).env()) == "nvml True"


def test_auto_takes_nvml_while_its_driver_is_not_loaded_yet(tmp_path: Path) -> None:
    stand_in = NvmlStandIn(tmp_path)
    stand_in.refuse_init()
    assert said("auto", "cards", env=stand_in.env()) == "nvml True"


def test_a_source_that_is_named_is_taken() -> None:
    assert choose_gpus(GpuSettings(source="static", static=CARDS)).source == "static"
    assert choose_gpus(GpuSettings(source="none", static=CARDS)).source == "none"
