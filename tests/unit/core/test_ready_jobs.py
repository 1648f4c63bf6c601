from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gpud.core.ids import JobId
from gpud.core.ready_jobs import Ready, ReadyJobs


def entry(seq: int, *, rank: int = 0, group: str = "") -> Ready:
    return Ready(rank, seq, seq, JobId(f"job-{seq}"), group)


def filled(*entries: Ready, room: int = 8) -> ReadyJobs:
    queue = ReadyJobs(room=room)
    for each in entries:
        queue.add(each)
    return queue


def taken(queue: ReadyJobs) -> list[int]:
    seqs = []
    while (found := queue.take()) is not None:
        seqs.append(found.seq)
    return seqs


def test_a_larger_priority_goes_first_and_equals_in_order_of_arrival() -> None:
    assert taken(filled(entry(1), entry(2, rank=-5), entry(3), entry(4, rank=-5))) == [2, 4, 1, 3]


def test_a_discarded_job_is_not_given_out() -> None:
    queue = filled(entry(1), entry(2))
    queue.discard(1)
    assert taken(queue) == [2]


def test_one_job_of_a_group_runs_at_a_time_in_order() -> None:
    queue = filled(entry(1, group="a"), entry(2, group="a"), entry(3), entry(4, group="a"))
    assert taken(queue) == [1, 3]
    queue.release("a", 1)
    assert taken(queue) == [2]
    queue.release("a", 2)
    assert taken(queue) == [4]


def test_a_job_that_is_tried_again_keeps_its_group_to_itself() -> None:
    queue = filled(entry(1, group="a"), entry(2, group="a"))
    assert taken(queue) == [1]
    queue.add(entry(1, group="a"))
    assert taken(queue) == [1]


def test_memory_holds_no_more_than_its_room_and_says_that_there_is_more() -> None:
    queue = filled(*(entry(seq) for seq in range(100)))
    assert len(queue) <= 8
    assert queue.incomplete
    assert not queue.must_refill
    assert taken(queue) == list(range(queue.last.seq + 1 if queue.last else 0))
    assert queue.must_refill


def test_what_arrives_while_the_disk_is_read_is_not_lost() -> None:
    queue = ReadyJobs(room=4)
    queue.forget()
    queue.begin_refill()
    queue.add(entry(7))
    queue.refill([entry(1)], more=False)
    assert taken(queue) == [1, 7]


@dataclass
class Disk:
    """What waits, as the rows say."""

    waiting: dict[int, Ready] = field(default_factory=dict)
    groups_held: dict[str, int] = field(default_factory=dict)

    def after(self, last: Ready | None, limit: int) -> tuple[list[Ready], bool]:
        rest = sorted(e for e in self.waiting.values() if last is None or e > last)
        return rest[:limit], len(rest) > limit

    def may_run(self) -> list[Ready]:
        held = self.groups_held
        return sorted(
            e for e in self.waiting.values() if not e.group_key or held.get(e.group_key, e.seq) == e.seq
        )


class WindowOverDisk(RuleBasedStateMachine):
    """The window always gives what the whole queue would, whatever its room is."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.queue = ReadyJobs(room=4)
        self.running: list[Ready] = []
        self.next_seq = 1

    @rule(rank=st.integers(-2, 2), group=st.sampled_from(["", "", "a", "b"]))
    def arrive(self, rank: int, group: str) -> None:
        new = entry(self.next_seq, rank=rank, group=group)
        self.next_seq += 1
        self.disk.waiting[new.seq] = new
        self.queue.add(new)

    @rule()
    def claim(self) -> None:
        while self.queue.must_refill:
            self.queue.begin_refill()
            entries, more = self.disk.after(self.queue.last, 3)
            self.queue.refill(entries, more=more)
        expected = self.disk.may_run()
        found = self.queue.take()
        assert found == (expected[0] if expected else None)
        if found is not None:
            del self.disk.waiting[found.seq]
            self.running.append(found)
            if found.group_key:
                self.disk.groups_held[found.group_key] = found.seq

    @precondition(lambda self: self.running)
    @rule(data=st.data(), again=st.booleans())
    def end(self, data: st.DataObject, again: bool) -> None:
        ended = data.draw(st.sampled_from(self.running))
        self.running.remove(ended)
        if again:
            back = ended._replace(available_at_ms=self.next_seq)
            self.disk.waiting[back.seq] = back
            self.queue.add(back)
            return
        if ended.group_key:
            del self.disk.groups_held[ended.group_key]
        self.queue.release(ended.group_key, ended.seq)

    @precondition(lambda self: self.disk.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.disk.waiting)))
        gone = self.disk.waiting.pop(seq)
        self.queue.discard(seq)
        if self.disk.groups_held.get(gone.group_key) == seq:
            del self.disk.groups_held[gone.group_key]
            self.queue.release(gone.group_key, seq)

    @rule()
    def age(self) -> None:
        self.queue.forget()

    @invariant()
    def stays_small(self) -> None:
        grouped = sum(1 for e in self.disk.waiting.values() if e.group_key)
        assert len(self.queue) <= 4 + 3 + grouped


WindowOverDisk.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWindowOverDisk = WindowOverDisk.TestCase
