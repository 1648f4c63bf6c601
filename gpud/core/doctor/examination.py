"""Puts the checks in their order: what was seen of a box in, findings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.doctor.box import (
    check_checkpoints,
    check_clock,
    check_data_disk,
    check_engine_disk,
    check_files,
    check_freezer,
    check_kernel,
    check_read_ahead,
)
from gpud.core.doctor.engine import check_cgroup_driver, check_engine, check_toolkit
from gpud.core.doctor.gpus import check_gpus, check_nvml
from gpud.core.doctor.install import (
    check_daemon,
    check_data,
    check_key_file,
    check_port,
    check_settings,
    check_tls,
    check_versions,
)

if TYPE_CHECKING:
    from gpud.core.doctor.box import ClockLook, DiskLook, KernelLook, LimitsLook
    from gpud.core.doctor.engine import EngineLook, ToolkitLook
    from gpud.core.doctor.findings import Finding
    from gpud.core.doctor.gpus import NvmlLook
    from gpud.core.doctor.install import (
        DaemonLook,
        DataLook,
        PortLook,
        SettingsLook,
        TlsLook,
        VersionsLook,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Everything that was seen."""

    versions: VersionsLook
    settings: SettingsLook
    daemon: DaemonLook
    data: DataLook
    tls: TlsLook
    port: PortLook
    engine: EngineLook
    toolkit: ToolkitLook
    nvml: NvmlLook
    data_disk: DiskLook
    engine_disk: DiskLook
    clock: ClockLook
    limits: LimitsLook
    kernel: KernelLook
    free_share_least: float
    engine_free_least_bytes: int


def examine(box: Box) -> tuple[tuple[str, tuple[Finding, ...]], ...]:
    """Judge everything.

    Returns:
        Areas by name, in the order for people, with their findings.
    """
    return (
        (
            "gpud",
            (
                check_versions(box.versions),
                check_settings(box.settings),
                *check_daemon(box.daemon, own_version=box.versions.gpud),
                check_data(box.data, box.daemon),
                check_key_file(box.data),
                check_tls(box.tls),
                check_port(box.port),
            ),
        ),
        ("docker", (*check_engine(box.engine), check_cgroup_driver(box.engine, box.toolkit))),
        ("gpus", (check_nvml(box.nvml), *check_gpus(box.nvml), check_toolkit(box.toolkit))),
        (
            "box",
            (
                *check_data_disk(box.data_disk, free_share_least=box.free_share_least),
                check_engine_disk(box.engine_disk, free_least_bytes=box.engine_free_least_bytes),
                check_clock(box.clock),
                check_files(box.limits),
                check_kernel(box.kernel),
                check_freezer(box.kernel),
                check_read_ahead(box.kernel),
                check_checkpoints(box.kernel),
            ),
        ),
    )
