from __future__ import annotations

import pytest

from gpud.core.ids import ENDPOINT_NAME, WORKER_ID, WorkerId, container_name, worker_of_container
from tests.fakes.clock import SeededIds
from tests.unit.core.making import worker_id


def test_a_containers_name_leads_back_to_its_worker() -> None:
    assert worker_of_container(container_name(worker_id(3))) == worker_id(3)


def test_the_engine_may_put_a_slash_before_a_name() -> None:
    assert worker_of_container("/" + container_name(worker_id(3))) == worker_id(3)


@pytest.mark.parametrize(
    "name", ["", "gpud-", "gpud-wk_short", "postgres", "gpud-wk_AAAAAAAAAAAAAAAA", "gpud-net"]
)
def test_containers_of_others_belong_to_no_worker(name: str) -> None:
    assert worker_of_container(name) is None


def test_new_worker_ids_are_spelled_as_worker_ids() -> None:
    ids = SeededIds(1)
    made = {WorkerId(ids.new_id("wk")) for _ in range(100)}
    assert len(made) == 100
    assert all(WORKER_ID.match(each) for each in made)


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("a", True),
        ("llama-3", True),
        ("a" * 40, True),
        ("a" * 41, False),
        ("", False),
        ("3a", False),
        ("-a", False),
        ("A", False),
        ("a_b", False),
        ("a.b", False),
        ("a\n", False),
    ],
)
def test_endpoint_names_are_what_a_url_and_a_container_label_can_hold(name: str, *, legal: bool) -> None:
    assert bool(ENDPOINT_NAME.match(name)) is legal
