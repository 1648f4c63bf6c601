"""The listener for workers: one address for life, wherever its network is."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.worker_door import ADDRESS_FILE, WorkerDoor
from gpud.errors import DependencyDown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def doors() -> Iterator[list[WorkerDoor]]:
    made: list[WorkerDoor] = []
    yield made
    for door in made:
        door.close()


async def opened(door: WorkerDoor, *addresses: str | Exception) -> list[socket.socket]:
    """Have it opened while the engine answers with these in turn."""
    told: list[socket.socket] = []
    left = list(addresses)

    async def gateway() -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def note(listening: socket.socket) -> None:
        told.append(listening)

    await door.keep_open(gateway, note)
    return told


async def test_it_opens_on_the_gateway_address_once_the_engine_tells_it(
    tmp_path: Path, doors: list[WorkerDoor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpud.adapters.worker_door._RETRY_S", 0.001)
    doors.append(door := WorkerDoor(tmp_path, port=0))
    assert door.url_or_empty() == ""
    with pytest.raises(Unavailable, match="no listener for workers"):
        door.base_url()
    (listening,) = await opened(door, DependencyDown("away"), "127.0.0.5")
    assert listening.getsockname()[0] == "127.0.0.5"
    assert door.base_url() == f"http://127.0.0.5:{listening.getsockname()[1]}"


async def test_its_address_is_the_same_after_a_restart_and_open_before_the_engine_answers(
    tmp_path: Path, doors: list[WorkerDoor]
) -> None:
    first = WorkerDoor(tmp_path, port=0)
    await opened(first, "127.0.0.5")
    url = first.base_url()
    first.close()
    doors.append(second := WorkerDoor(tmp_path, port=0))
    assert second.base_url() == url
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))):
        pass
    (again,) = await opened(second, "127.0.0.5")
    assert again is second.socket


async def test_a_socket_that_was_kept_is_taken_as_it_is(tmp_path: Path, doors: list[WorkerDoor]) -> None:
    kept = socket.create_server(("127.0.0.5", 0))
    doors.append(door := WorkerDoor(tmp_path, port=0, kept=kept))
    assert await opened(door, "127.0.0.5") == [kept]


async def test_it_moves_with_its_network(tmp_path: Path, doors: list[WorkerDoor]) -> None:
    first = WorkerDoor(tmp_path, port=0)
    await opened(first, "127.0.0.5")
    port = (tmp_path / ADDRESS_FILE).read_text().strip().rpartition(":")[2]
    first.close()
    doors.append(second := WorkerDoor(tmp_path, port=0))
    old, new = await opened(second, "127.0.0.6")
    old.close()
    assert new.getsockname() == ("127.0.0.6", int(port))
    assert (tmp_path / ADDRESS_FILE).read_text().strip() == f"127.0.0.6:{port}"


async def test_an_address_of_another_box_is_told_and_tried_again(
    tmp_path: Path, doors: list[WorkerDoor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpud.adapters.worker_door._RETRY_S", 0.001)
    doors.append(door := WorkerDoor(tmp_path, port=0))
    with pytest.raises(IndexError):  # it asked again, and again
        await opened(door, "192.0.2.1", "192.0.2.1")
    with pytest.raises(Unavailable, match="another box"):
        door.base_url()
