from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.image_gc import ImagePolicy, KeptFor, PulledImage, plan_images

HOUR_MS = 3_600_000
NOW_MS = 1_000 * HOUR_MS
GIB = 1 << 30


def image(name: str, *, gib: int = 1, age_h: float = 24.0, in_use: bool = False) -> PulledImage:
    return PulledImage(
        id=f"sha256:{name}",
        pins=(f"sha256:{name}", f"repo/{name}@sha256:{name}"),
        size_bytes=gib * GIB,
        used_at_ms=int(NOW_MS - age_h * HOUR_MS),
        in_use=in_use,
    )


@st.composite
def boxes(draw: st.DrawFn) -> tuple[list[PulledImage], set[str], ImagePolicy, int | None]:
    images = [
        PulledImage(
            id=f"sha256:{index}",
            pins=(f"sha256:{index}", f"repo/app@sha256:{index}"),
            size_bytes=draw(st.integers(0, 50)),
            used_at_ms=NOW_MS - draw(st.integers(0, 5 * HOUR_MS)),
            in_use=draw(st.booleans()),
            named=draw(st.booleans()),
        )
        for index in range(draw(st.integers(0, 8)))
    ]
    needed = {draw(st.sampled_from(each.pins)) for each in images if draw(st.booleans())}
    policy = ImagePolicy(
        disk_budget_bytes=draw(st.integers(0, 200)), free_bytes_least=draw(st.integers(0, 100))
    )
    return images, needed, policy, draw(st.none() | st.integers(0, 200))


@given(boxes(), st.booleans())
def test_what_somebody_needs_is_never_removed(
    box: tuple[list[PulledImage], set[str], ImagePolicy, int | None], everything: bool
) -> None:
    images, needed, policy, free = box
    plan = plan_images(
        images, needed_pins=needed, policy=policy, free_bytes=free, now_ms=NOW_MS, everything=everything
    )
    for removed in plan.remove:
        assert not needed.intersection(removed.pins)
        assert not removed.in_use
        assert not removed.named
        assert everything or NOW_MS - removed.used_at_ms >= HOUR_MS
    assert sorted([*plan.remove, *(kept for kept, _ in plan.kept)], key=lambda i: i.id) == images


@given(boxes())
def test_as_few_are_removed_as_make_the_limits_hold(
    box: tuple[list[PulledImage], set[str], ImagePolicy, int | None],
) -> None:
    images, needed, policy, free = box
    plan = plan_images(images, needed_pins=needed, policy=policy, free_bytes=free, now_ms=NOW_MS)
    left = sum(kept.size_bytes for kept, _ in plan.kept)
    freed = plan.taken_bytes - left
    holds = (not policy.disk_budget_bytes or left <= policy.disk_budget_bytes) and (
        free is None or free + freed >= policy.free_bytes_least
    )
    assert holds == (plan.over_bytes == 0)
    if not holds:
        assert KeptFor.FITS not in {why for _, why in plan.kept}
    elif plan.remove:
        without_last = freed - plan.remove[-1].size_bytes
        assert (policy.disk_budget_bytes and plan.taken_bytes - without_last > policy.disk_budget_bytes) or (
            free is not None and free + without_last < policy.free_bytes_least
        )


def test_the_longest_unused_goes_first() -> None:
    images = [image("new", age_h=2), image("old", age_h=200), image("older", age_h=300)]
    policy = ImagePolicy(disk_budget_bytes=2 * GIB)
    plan = plan_images(images, needed_pins=(), policy=policy, free_bytes=None, now_ms=NOW_MS)
    assert [each.id for each in plan.remove] == ["sha256:older"]


def test_a_budget_that_the_needed_images_exceed_is_told() -> None:
    images = [image("a", gib=3), image("b", gib=2, in_use=True)]
    policy = ImagePolicy(disk_budget_bytes=GIB)
    plan = plan_images(images, needed_pins={"repo/a@sha256:a"}, policy=policy, free_bytes=None, now_ms=NOW_MS)
    assert plan.remove == ()
    assert plan.over_bytes == 4 * GIB
    assert [why for _, why in plan.kept] == [KeptFor.PINNED, KeptFor.IN_USE]


def test_without_limits_nothing_is_removed() -> None:
    plan = plan_images([image("a")], needed_pins=(), policy=ImagePolicy(), free_bytes=0, now_ms=NOW_MS)
    assert plan.remove == ()


def test_asked_for_everything_what_nobody_needs_goes() -> None:
    images = [image("a", age_h=0.1), image("b")]
    plan = plan_images(
        images,
        needed_pins={"sha256:b"},
        policy=ImagePolicy(),
        free_bytes=None,
        now_ms=NOW_MS,
        everything=True,
    )
    assert [each.id for each in plan.remove] == ["sha256:a"]
