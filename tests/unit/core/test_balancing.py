from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.balancing import Rotation, pick
from gpud.core.endpoint import Balance
from gpud.core.ids import WorkerId
from gpud.core.routing import RouteWorker


def _worker(number: int) -> RouteWorker:
    return RouteWorker(worker_id=WorkerId(f"wk_{number:016d}"), address="10.0.0.1", port=80)


def _rotation(*numbers: int) -> Rotation:
    return Rotation.of([_worker(number) for number in numbers])


def _pick(
    rotation: Rotation, balance: Balance = Balance.ROUND_ROBIN, cursor: str = "", **facts: object
) -> RouteWorker | None:
    known: dict[str, object] = {"in_flight": {}, "concurrency": 2, **facts}
    return pick(balance, rotation, cursor=cursor, **known)  # type: ignore[arg-type]


def test_no_worker_is_picked_from_none() -> None:
    assert _pick(Rotation()) is None


def test_round_robin_visits_workers_in_the_order_of_their_ids() -> None:
    rotation, cursor, order = _rotation(3, 1, 2), "", []
    for _ in range(6):
        worker = _pick(rotation, cursor=cursor)
        assert worker is not None
        cursor = worker.worker_id
        order.append(int(cursor.removeprefix("wk_")))
    assert order == [1, 2, 3, 1, 2, 3]


def test_a_cursor_at_a_worker_that_is_gone_goes_on_after_its_place() -> None:
    worker = _pick(_rotation(1, 3), cursor=_worker(2).worker_id)
    assert worker == _worker(3)


def test_full_and_skipped_workers_are_passed_over() -> None:
    full = {_worker(1).worker_id: 2}
    assert _pick(_rotation(1, 2, 3), in_flight=full, skip=[_worker(2).worker_id]) == _worker(3)
    assert _pick(_rotation(1, 2), in_flight=full, skip=[_worker(2).worker_id]) is None


def test_pack_fills_the_first_worker_first() -> None:
    rotation = _rotation(1, 2)
    assert _pick(rotation, Balance.PACK, cursor=_worker(1).worker_id) == _worker(1)
    assert _pick(rotation, Balance.PACK, in_flight={_worker(1).worker_id: 2}) == _worker(2)


def test_least_inflight_takes_the_emptiest_and_goes_round_among_equals() -> None:
    rotation = _rotation(1, 2, 3)
    busy = {_worker(1).worker_id: 1}
    assert _pick(rotation, Balance.LEAST_INFLIGHT, in_flight=busy) == _worker(2)
    assert _pick(rotation, Balance.LEAST_INFLIGHT, cursor=_worker(2).worker_id, in_flight=busy) == _worker(3)


def test_a_session_stays_with_its_worker_until_that_is_full() -> None:
    rotation = _rotation(*range(5))
    home = _pick(rotation, affinity=b"session")
    assert home is not None
    for number in range(5):
        assert _pick(rotation, cursor=_worker(number).worker_id, affinity=b"session") == home
    other = _pick(rotation, in_flight={home.worker_id: 2}, affinity=b"session")
    assert other not in (None, home)


def test_a_session_moves_only_when_its_own_worker_leaves() -> None:
    sessions = [f"s{i}".encode() for i in range(50)]
    before = {session: _pick(_rotation(*range(5)), affinity=session) for session in sessions}
    for session, home in before.items():
        if home != _worker(4):
            assert _pick(_rotation(*range(4)), affinity=session) == home


@given(
    st.sets(st.integers(0, 30), min_size=1, max_size=8),
    st.dictionaries(st.integers(0, 30), st.integers(0, 3)),
    st.integers(0, 30),
    st.sampled_from(list(Balance)),
)
def test_a_worker_is_picked_exactly_when_one_has_room(
    numbers: set[int], loads: dict[int, int], cursor: int, balance: Balance
) -> None:
    in_flight = {_worker(number).worker_id: load for number, load in loads.items()}
    chosen = _pick(_rotation(*numbers), balance, cursor=_worker(cursor).worker_id, in_flight=in_flight)
    free = [_worker(number) for number in numbers if loads.get(number, 0) < 2]
    assert (chosen is None) == (not free)
    assert chosen is None or chosen in free


@given(st.lists(st.sets(st.integers(0, 12), min_size=3, max_size=6), min_size=1, max_size=20))
def test_round_robin_stays_fair_while_the_list_changes(generations: list[set[int]]) -> None:
    always = {100, 101, 102}
    counts: Counter[WorkerId] = Counter()
    cursor = ""
    for numbers in generations:
        rotation = _rotation(*numbers, *always)
        for _ in rotation.workers:
            worker = _pick(rotation, cursor=cursor)
            assert worker is not None
            cursor = worker.worker_id
            counts[worker.worker_id] += 1
    served = [counts[_worker(number).worker_id] for number in always]
    assert max(served) - min(served) <= 1
