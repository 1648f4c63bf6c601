"""What is said of disks, clock, limits and kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpud.core.doctor.box import (
    ClockLook,
    DiskLook,
    KernelLook,
    LimitsLook,
    check_checkpoints,
    check_clock,
    check_data_disk,
    check_engine_disk,
    check_files,
    check_freezer,
    check_kernel,
    check_read_ahead,
)
from gpud.core.doctor.findings import GIB, Verdict

_DISK = DiskLook(
    path="/var/lib/gpud",
    file_system="ext4",
    free_bytes=500 * GIB,
    total_bytes=1000 * GIB,
    inodes_free_share=0.9,
    writable_error="",
    sync_s=0.002,
)


@pytest.mark.parametrize(
    ("change", "room", "kind"),
    [
        ({}, Verdict.OK, Verdict.OK),
        ({"free_bytes": 90 * GIB}, Verdict.WARNING, Verdict.OK),
        ({"free_bytes": 40 * GIB}, Verdict.FAILED, Verdict.OK),
        ({"free_bytes": GIB // 8, "total_bytes": GIB}, Verdict.FAILED, Verdict.OK),
        ({"inodes_free_share": 0.001}, Verdict.FAILED, Verdict.OK),
        ({"inodes_free_share": None}, Verdict.OK, Verdict.OK),
        ({"file_system": "nfs4", "is_network": True}, Verdict.OK, Verdict.FAILED),
        ({"writable_error": "journal mode delete"}, Verdict.OK, Verdict.FAILED),
        ({"writable_error": None}, Verdict.OK, Verdict.SKIPPED),
        ({"sync_s": 0.2}, Verdict.OK, Verdict.WARNING),
    ],
)
def test_the_data_disk_needs_room_and_a_file_system_that_keeps_what_it_syncs(
    change: dict[str, object], room: Verdict, kind: Verdict
) -> None:
    found = check_data_disk(replace(_DISK, **change), free_share_least=0.05)  # type: ignore[arg-type]
    assert [(finding.check, finding.verdict) for finding in found] == [
        ("data-disk", room),
        ("file-system", kind),
    ]


def test_a_disk_that_cannot_be_looked_at_is_skipped_once() -> None:
    (finding,) = check_data_disk(DiskLook(path="/x", error="Permission denied"), free_share_least=0.05)
    assert finding.verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("free_gib", "least_gib", "verdict"),
    [(500, 0, Verdict.OK), (10, 0, Verdict.WARNING), (30, 50, Verdict.FAILED), (60, 50, Verdict.OK)],
)
def test_the_engines_disk_is_judged_by_what_pulls_need(
    free_gib: int, least_gib: int, verdict: Verdict
) -> None:
    look = replace(_DISK, free_bytes=free_gib * GIB)
    assert check_engine_disk(look, free_least_bytes=least_gib * GIB).verdict is verdict


def test_the_disk_of_an_engine_elsewhere_is_not_this_boxs() -> None:
    assert check_engine_disk(replace(_DISK, missing=True), free_least_bytes=0).verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("look", "verdict", "word"),
    [
        (ClockLook(synchronised=True), Verdict.OK, "synchronised"),
        (ClockLook(synchronised=True, newest_ahead_s=1.0), Verdict.OK, "synchronised"),
        (ClockLook(synchronised=False), Verdict.WARNING, "nothing keeps"),
        (ClockLook(synchronised=None), Verdict.SKIPPED, "does not tell"),
        (ClockLook(synchronised=True, newest_ahead_s=3600.0), Verdict.WARNING, "set back"),
    ],
)
def test_a_clock_is_to_be_kept_right_and_never_set_back(look: ClockLook, verdict: Verdict, word: str) -> None:
    finding = check_clock(look)
    assert finding.verdict is verdict
    assert word in finding.found


@pytest.mark.parametrize(
    ("soft", "is_daemon", "verdict"),
    [
        (65_536, True, Verdict.OK),
        (1024, True, Verdict.WARNING),
        (1024, False, Verdict.SKIPPED),
        (65_536, False, Verdict.OK),
    ],
)
def test_the_daemons_own_limit_counts_and_a_shells_is_only_told(
    soft: int, is_daemon: bool, verdict: Verdict
) -> None:
    assert check_files(LimitsLook(whose="it", is_daemon=is_daemon, soft=soft)).verdict is verdict


@pytest.mark.parametrize(("cgroups", "verdict"), [(2, Verdict.OK), (1, Verdict.WARNING), (0, Verdict.FAILED)])
def test_control_groups_are_needed_and_their_first_version_is_going(cgroups: int, verdict: Verdict) -> None:
    assert check_kernel(KernelLook(release="6.8.0", cgroups=cgroups)).verdict is verdict


def test_who_pauses_workers_is_told_and_neither_way_is_a_fault() -> None:
    look = KernelLook(release="6.8.0", cgroups=2)
    own = check_freezer(look)
    engine = check_freezer(replace(look, freezer_error="the daemon does not run as root"))
    away = check_freezer(replace(look, engine_is_local=False))
    assert {own.verdict, engine.verdict, away.verdict} == {Verdict.OK}
    assert "does not run as root" in engine.found


def test_it_is_told_how_the_files_of_a_start_are_found_out() -> None:
    look = KernelLook(release="6.8", cgroups=2)
    blind = replace(look, watch_error="the daemon has no CAP_SYS_ADMIN, which fanotify takes")
    told = [check_read_ahead(each) for each in (look, blind, replace(look, engine_is_local=False))]
    assert {finding.verdict for finding in told} == {Verdict.OK}
    assert "fanotify" in told[0].found
    assert "in memory after a start: the daemon has no CAP_SYS_ADMIN" in told[1].found
    assert "another machine" in told[2].found


def test_why_there_are_no_checkpoints_is_told_for_each_tool_that_is_in_the_way() -> None:
    obstacles = (("criu", "criu is not installed."), ("cuda-checkpoint", ""))
    finding = check_checkpoints(KernelLook(release="6", cgroups=2, checkpoint_obstacles=obstacles))
    assert finding.verdict is Verdict.SKIPPED
    assert finding.found == "workers cannot be checkpointed: criu is not installed"
    clear = KernelLook(release="6", cgroups=2, checkpoint_obstacles=(("criu", ""),))
    assert check_checkpoints(clear).verdict is Verdict.OK
