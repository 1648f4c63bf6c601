"""What the doctor reads of GPUs, from the driver's own interface."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.nvml_health import look_at_gpus
from tests.rig.nvml_stand_in import ERROR_GPU_IS_LOST, stand_in_gpus

if TYPE_CHECKING:
    from tests.rig.nvml_stand_in import NvmlStandIn


def test_each_gpu_is_told_with_its_ills_and_one_that_is_lost_does_not_hide_the_others(
    nvml: NvmlStandIn,
) -> None:
    nvml.load_in_process()
    well, worn, broken, lost = stand_in_gpus(4, temperature_celsius=41)
    nvml.set_gpus(
        [
            well,
            dataclasses.replace(worn, ecc_uncorrected=2, remapped_rows=(0, 1, 1, 0)),
            dataclasses.replace(broken, remapped_rows=(0, 9, 0, 1)),
            dataclasses.replace(lost, error=ERROR_GPU_IS_LOST),
        ]
    )
    look = look_at_gpus("auto", static=0)
    assert (look.driver, look.session_error) == (nvml.driver_version, "")
    first, second, third, fourth = look.gpus
    assert (first.uuid, first.temperature_c, first.memory_errors) == (well.uuid, 41, 0)
    assert (second.memory_errors, second.repair_pending, second.repair_failed) == (2, True, False)
    assert third.repair_failed
    assert fourth.error


def test_a_driver_that_is_not_loaded_is_told(nvml: NvmlStandIn) -> None:
    nvml.load_in_process()
    nvml.refuse_init()
    look = look_at_gpus("auto", static=0)
    assert "NVML does not answer" in look.session_error
    assert look.gpus == ()


@pytest.mark.parametrize("source", ["none", "static"])
def test_nvml_is_not_asked_where_the_settings_say_so(source: str) -> None:
    look = look_at_gpus(source, static=2)
    assert (look.library_error, look.session_error, look.gpus) == ("", "", ())
