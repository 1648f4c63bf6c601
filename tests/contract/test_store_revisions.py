"""What the store promises about revisions and rollouts, on a database file and on one in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.records import EndpointDeleted, EndpointSaved, RevisionSaved, RolloutSaved, WorkerInserted
from gpud.core.revision import RevisionRecord, RevisionState
from gpud.core.rollout import RollbackReason, Rollout, RolloutStep, SmokeState
from gpud.core.rollout_policy import RolloutPolicy, RolloutStrategy, SmokeRequest
from gpud.core.starts import StartRecord
from tests.contract.store_rig import KINDS, HandClock, a_full_endpoint, a_worker, an_endpoint, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store
    from gpud.core.endpoint import Endpoint

OLD = an_endpoint(env=(("VERSION", "1"),))
NEW = an_endpoint(
    env=(("VERSION", "2"),),
    rollout=RolloutPolicy(
        strategy=RolloutStrategy.RECREATE,
        verify=False,
        min_healthy_time_s=1.5,
        progress_deadline_s=2.5,
        smoke=SmokeRequest(path="/smoke", body="{}", timeout_s=3.5),
    ),
)


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, HandClock()) as store:
        yield store


def record(endpoint: Endpoint, number: int, state: RevisionState, **facts: object) -> RevisionRecord:
    made = RevisionRecord(
        endpoint=replace(endpoint, updated_at_ms=endpoint.created_at_ms),
        number=number,
        state=state,
        created_at_ms=endpoint.created_at_ms,
        changed_at_ms=7,
    )
    return replace(made, **facts)  # type: ignore[arg-type]


def rollout(**facts: object) -> Rollout:
    made = Rollout(
        endpoint=NEW.name,
        base=OLD.revision,
        target=NEW.revision,
        step=RolloutStep.PROVE,
        since_s=1.25,
        clock_s=2.5,
        replaced=1,
        starts=StartRecord(failures=2, last_error="exited", permanent=True),
        smoke=SmokeState.PASSED,
        detail="well",
        started_at_ms=3,
        changed_at_ms=4,
    )
    return replace(made, **facts)  # type: ignore[arg-type]


async def test_revisions_and_a_rollout_come_back_as_they_were_saved(store: Store) -> None:
    old, new = record(OLD, 1, RevisionState.CURRENT, ready_at_ms=5), record(NEW, 2, RevisionState.DEPLOYING)
    under_way = rollout()
    await store.fleet.record(
        [
            RevisionSaved(record=old),
            RevisionSaved(record=new),
            EndpointSaved(endpoint=NEW),
            RolloutSaved(rollout=under_way),
        ]
    )
    rows = await store.fleet.load_fleet()
    assert rows.revisions == (old, new)
    assert rows.rollouts == (under_way,)
    assert rows.endpoints == (NEW,)
    assert {(name, number) for name, _, number in rows.revision_numbers} == {(NEW.name, 1), (NEW.name, 2)}
    ended = rollout(step=RolloutStep.ROLLED_BACK, reason=RollbackReason.SMOKE, clock_s=None)
    await store.fleet.record([RolloutSaved(rollout=ended)])
    assert (await store.fleet.load_fleet()).rollouts == (ended,)


async def test_a_revision_keeps_its_spec_and_its_first_readiness_whatever_becomes_of_it(store: Store) -> None:
    saved = record(OLD, 1, RevisionState.CURRENT, ready_at_ms=5)
    later = record(OLD, 1, RevisionState.FAILED, detail="It broke.", changed_at_ms=9, created_at_ms=8)
    await store.fleet.record([RevisionSaved(record=saved), RevisionSaved(record=later)])
    (found,) = await store.fleet.revisions(OLD.name)
    assert (found.state, found.detail, found.changed_at_ms) == (RevisionState.FAILED, "It broke.", 9)
    assert (found.ready_at_ms, found.created_at_ms, found.endpoint.spec) == (5, OLD.created_at_ms, OLD.spec)


async def test_only_what_may_be_needed_is_loaded_and_all_is_listed(store: Store) -> None:
    full = a_full_endpoint()
    old, new = record(OLD, 1, RevisionState.SUPERSEDED), record(NEW, 2, RevisionState.CURRENT)
    saved = (old, new, record(full, 1, RevisionState.CURRENT))
    await store.fleet.record([RevisionSaved(record=each) for each in saved])
    assert old not in (await store.fleet.load_fleet()).revisions
    assert await store.fleet.revisions(OLD.name) == (old, new)
    await store.fleet.record([WorkerInserted(worker=a_worker(endpoint=OLD))])
    assert old in (await store.fleet.load_fleet()).revisions, "a worker of it lives"


async def test_a_deleted_endpoint_takes_its_rollout_along_and_leaves_its_revisions(store: Store) -> None:
    records = (record(OLD, 1, RevisionState.CURRENT), record(NEW, 2, RevisionState.DEPLOYING))
    await store.fleet.record([RevisionSaved(record=each) for each in records])
    await store.fleet.record([EndpointSaved(endpoint=NEW), RolloutSaved(rollout=rollout())])
    await store.fleet.record([EndpointDeleted(name=NEW.name)])
    rows = await store.fleet.load_fleet()
    assert (rows.rollouts, rows.revisions) == ((), ())
    states = [each.state for each in await store.fleet.revisions(NEW.name)]
    assert states == [RevisionState.SUPERSEDED] * 2
