from __future__ import annotations

from dataclasses import replace

from gpud.jobs.new_jobs import NewJobs
from gpud.ports.jobs import Payload
from tests.contract.job_rig import new_job


def test_what_is_remembered_is_bounded_in_number_and_in_bytes() -> None:
    known = NewJobs(jobs_max=3, bytes_max=10)
    for seq, size in ((1, 6), (2, 5), (3, 4), (4, 0)):
        known.add(replace(new_job(), seq=seq), Payload(content=b"x" * size))
    assert [known.take(seq) is not None for seq in (1, 2, 3, 4)] == [True, False, True, True]
    assert known.take(1) is None
    known.add(replace(new_job(), seq=5), Payload(content=b"x" * 10))
    assert known.take(5) is not None
