"""What is said of NVML and of each GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpud.core.doctor.findings import Verdict
from gpud.core.doctor.gpus import GpuLook, NvmlLook, check_gpus, check_nvml

_GPU = GpuLook(index=0, uuid="GPU-a", name="NVIDIA L4", temperature_c=41, persistent=True, memory_errors=0)
_LOOK = NvmlLook(source="auto", hardware=1, driver="570.1", gpus=(_GPU,))


@pytest.mark.parametrize(
    ("look", "verdict"),
    [
        (_LOOK, Verdict.OK),
        (NvmlLook(source="none"), Verdict.SKIPPED),
        (NvmlLook(source="static", static=2, hardware=1), Verdict.SKIPPED),
        (NvmlLook(source="auto", library_error="no such file", hardware=0), Verdict.WARNING),
        (NvmlLook(source="auto", library_error="no such file", hardware=0, static=2), Verdict.OK),
        (NvmlLook(source="auto", library_error="no such file", hardware=2), Verdict.FAILED),
        (NvmlLook(source="nvml", library_error="no such file", hardware=0), Verdict.FAILED),
        (NvmlLook(source="auto", session_error="Driver Not Loaded"), Verdict.FAILED),
        (replace(_LOOK, gpus=()), Verdict.FAILED),
        (replace(_LOOK, hardware=4), Verdict.WARNING),
        (replace(_LOOK, hardware=None), Verdict.OK),
    ],
)
def test_nvml_is_judged_by_what_the_settings_and_the_bus_say_there_should_be(
    look: NvmlLook, verdict: Verdict
) -> None:
    finding = check_nvml(look)
    assert finding.verdict is verdict
    assert bool(finding.todo) is (verdict in (Verdict.WARNING, Verdict.FAILED))


@pytest.mark.parametrize(
    ("change", "verdict", "word"),
    [
        ({}, Verdict.OK, ""),
        ({"temperature_c": None, "persistent": None, "memory_errors": None}, Verdict.OK, ""),
        ({"error": "GPU is lost"}, Verdict.FAILED, "dmesg"),
        ({"repair_failed": True}, Verdict.FAILED, "gpud gpu cordon GPU-a"),
        ({"daemon_health": "unhealthy", "daemon_reason": "Xid 79"}, Verdict.FAILED, "uncordon GPU-a"),
        ({"daemon_health": "quarantined", "daemon_reason": "a process"}, Verdict.WARNING, "nvidia-smi"),
        ({"daemon_health": "cordoned"}, Verdict.OK, ""),
        ({"memory_errors": 3}, Verdict.WARNING, "--gpu-reset"),
        ({"repair_pending": True}, Verdict.WARNING, "--gpu-reset"),
        ({"temperature_c": 94}, Verdict.WARNING, "airflow"),
        ({"persistent": False}, Verdict.WARNING, "nvidia-persistenced"),
    ],
)
def test_each_ill_of_a_gpu_is_told_with_what_to_do(
    change: dict[str, object], verdict: Verdict, word: str
) -> None:
    (finding,) = check_gpus(replace(_LOOK, gpus=(replace(_GPU, **change),)))  # type: ignore[arg-type]
    assert (finding.check, finding.verdict) == ("gpu-0", verdict)
    assert word in finding.todo
