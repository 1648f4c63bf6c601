"""What is said of an engine, and of the ways GPUs come into its containers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpud.core.doctor.engine import (
    EngineLook,
    ToolkitLook,
    check_cgroup_driver,
    check_engine,
    check_toolkit,
)
from gpud.core.doctor.findings import Verdict
from gpud.core.gpu import GpuAttach

_GOOD = EngineLook(
    host="unix:///var/run/docker.sock",
    version="28.5.1",
    api_version="1.51",
    storage_driver="overlay2",
    cgroup_driver="cgroupfs",
    cgroup_version="2",
    runtimes=("crun", "runc"),
    default_runtime="runc",
    live_restore=True,
)
_HOOK = ToolkitLook(
    attach=GpuAttach.DEVICE_REQUEST, gpus=True, tools=("nvidia-container-runtime-hook",), driver="570.1"
)
_CDI = ToolkitLook(
    attach=GpuAttach.CDI,
    gpus=True,
    specs=("/etc/cdi/nvidia.yaml",),
    spec_drivers=("570.1",),
    driver="570.1",
    char_links=True,
)


def test_an_engine_as_it_should_be_has_nothing_against_it() -> None:
    assert {finding.verdict for finding in check_engine(_GOOD)} == {Verdict.OK}


def test_an_engine_that_is_away_is_one_failure_and_no_guesses() -> None:
    (only,) = check_engine(EngineLook(host="unix:///x.sock", error="The Docker Engine is away."))
    assert (only.check, only.verdict, only.found) == ("engine", Verdict.FAILED, "The Docker Engine is away.")


@pytest.mark.parametrize(
    ("change", "check", "verdict", "word"),
    [
        ({"version": "27.5.1"}, "engine", Verdict.WARNING, "28 or later"),
        ({"api_version": "1.40"}, "engine", Verdict.FAILED, "20.10"),
        ({"rootless": True}, "engine", Verdict.WARNING, "runs as root"),
        ({"runtimes": ("runc",)}, "runtime", Verdict.WARNING, "Install crun"),
        ({"runtimes": ("runc",), "wanted_runtime": "runc"}, "runtime", Verdict.OK, ""),
        ({"wanted_runtime": "kata"}, "runtime", Verdict.FAILED, "auto"),
        ({"default_runtime": "nvidia", "runtimes": ("nvidia",)}, "runtime", Verdict.OK, ""),
        ({"storage_driver": "vfs"}, "image-store", Verdict.WARNING, "overlay2"),
        ({"storage_driver": "overlayfs"}, "image-store", Verdict.WARNING, "page caches"),
        ({"live_restore": False}, "live-restore", Verdict.WARNING, "live-restore"),
    ],
)
def test_each_flaw_of_an_engine_is_told_with_what_to_do(
    change: dict[str, object], check: str, verdict: Verdict, word: str
) -> None:
    found = {finding.check: finding for finding in check_engine(replace(_GOOD, **change))}  # type: ignore[arg-type]
    assert found[check].verdict is verdict
    assert word in found[check].todo
    others = [finding.verdict for name, finding in found.items() if name != check]
    assert set(others) == {Verdict.OK}


@pytest.mark.parametrize(
    ("driver", "toolkit", "verdict", "word"),
    [
        ("cgroupfs", _HOOK, Verdict.OK, ""),
        ("systemd", _HOOK, Verdict.WARNING, "cgroupfs"),
        ("systemd", _CDI, Verdict.OK, ""),
        ("systemd", replace(_CDI, char_links=None), Verdict.OK, ""),
        ("systemd", replace(_CDI, char_links=False), Verdict.WARNING, "create-dev-char-symlinks"),
        ("systemd", replace(_HOOK, gpus=False), Verdict.OK, ""),
        ("systemd", replace(_HOOK, attach=GpuAttach.NONE), Verdict.OK, ""),
    ],
)
def test_a_reload_of_systemd_takes_gpus_only_where_it_does_not_know_them(
    driver: str, toolkit: ToolkitLook, verdict: Verdict, word: str
) -> None:
    finding = check_cgroup_driver(replace(_GOOD, cgroup_driver=driver), toolkit)
    assert finding.verdict is verdict
    assert word in finding.todo
    assert ("daemon-reload" in finding.why) is (verdict is Verdict.WARNING)


@pytest.mark.parametrize(
    ("look", "verdict", "word"),
    [
        (ToolkitLook(attach=GpuAttach.DEVICE_REQUEST, gpus=False), Verdict.SKIPPED, ""),
        (replace(_HOOK, attach=None), Verdict.SKIPPED, ""),
        (_HOOK, Verdict.OK, ""),
        (replace(_HOOK, tools=()), Verdict.FAILED, "Install the NVIDIA Container Toolkit"),
        (_CDI, Verdict.OK, ""),
        (replace(_CDI, specs=()), Verdict.FAILED, "nvidia-ctk cdi generate"),
        (replace(_CDI, spec_drivers=("550.54.14",)), Verdict.FAILED, "again"),
        (replace(_CDI, spec_drivers=()), Verdict.OK, ""),
    ],
)
def test_how_gpus_come_into_containers_is_judged_by_what_gpud_asks_for(
    look: ToolkitLook, verdict: Verdict, word: str
) -> None:
    finding = check_toolkit(look)
    assert finding.verdict is verdict
    assert word in finding.todo
