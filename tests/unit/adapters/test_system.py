from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from gpud.adapters.system import SystemClock, SystemIds
from gpud.core.ids import WORKER_ID
from tests.fakes.clock import FakeClock, SeededIds


async def test_now_is_the_time_of_the_running_loop() -> None:
    before_s = asyncio.get_running_loop().time()
    assert before_s <= SystemClock().now_s() <= asyncio.get_running_loop().time()


def test_wall_time_is_the_same_in_both_units() -> None:
    clock = SystemClock()
    before_ns, at_ms, after_ns = clock.wall_ns(), clock.at_ms(), clock.wall_ns()
    assert before_ns // 1_000_000 <= at_ms <= after_ns // 1_000_000
    assert abs(before_ns / 1e9 - time.time()) < 60


def test_boot_time_grows_and_counts_from_the_boot() -> None:
    clock = SystemClock()
    before_ns, after_ns = clock.boot_ns(), clock.boot_ns()
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert before_ns <= after_ns
    assert abs(after_ns / 1e9 - uptime_s) < 60


def test_two_clocks_of_one_boot_know_it_as_the_same() -> None:
    assert SystemClock().boot_id == SystemClock().boot_id
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", SystemClock().boot_id)


def test_ids_are_spelled_as_ids_are_and_differ() -> None:
    for ids in (SystemIds(), SeededIds(7)):
        made = [ids.new_id("wk") for _ in range(1000)]
        assert all(WORKER_ID.match(each) for each in made)
        assert len(set(made)) == 1000


def test_fractions_are_from_zero_to_one_and_spread() -> None:
    for ids in (SystemIds(), SeededIds(7)):
        drawn = [ids.fraction() for _ in range(1000)]
        assert all(0 <= each < 1 for each in drawn)
        assert min(drawn) < 0.1
        assert max(drawn) > 0.9


def test_seeded_ids_repeat_with_their_seed() -> None:
    assert SeededIds(1).new_id("wk") == SeededIds(1).new_id("wk") != SeededIds(2).new_id("wk")


async def test_a_fake_clocks_wall_may_jump_while_its_other_times_do_not() -> None:
    clock = FakeClock()
    wall_ms, boot_ns = clock.at_ms(), clock.boot_ns()
    clock.step_wall(-3600)
    assert -3_600_000 <= clock.at_ms() - wall_ms < -3_540_000
    assert 0 <= clock.boot_ns() - boot_ns < 60e9


async def test_a_fake_reboot_starts_boot_time_anew_under_another_id() -> None:
    clock = FakeClock()
    await asyncio.sleep(0.01)
    clock.reboot("boot-2")
    assert clock.boot_id == "boot-2"
    assert 0 <= clock.boot_ns() < 1e9
