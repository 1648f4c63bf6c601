"""What `--watch` prints where there is no terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gpud.cli import exits
from gpud.cli.index import WATCHED, all_commands
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, Reply, json_reply

if TYPE_CHECKING:
    from tests.unit.cli.canned import Seen
    from tests.unit.cli.conftest import Gpud


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Between looks no time passes, and the fourth wait is interrupted."""
    waited: list[float] = []

    def wait(period_s: float) -> None:
        waited.append(period_s)
        if len(waited) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("gpud.cli.watching.time.sleep", wait)
    return waited


def test_what_is_watched_is_printed_whenever_it_changed(
    gpud: Gpud, daemon: CannedDaemon, looks: list[float]
) -> None:
    replies = iter(["one", "one", "two", "two"])

    def listed(_seen: Seen) -> Reply:
        return json_reply({"items": [documents.gpu(name=next(replies))], "next": None})

    daemon.on("GET", "/v1/gpus", listed)
    ran = gpud("gpu", "ls", "--watch", "--interval", "5s", "--json")
    assert ran.code == exits.INTERRUPTED
    assert [json.loads(line)["items"][0]["name"] for line in ran.out.splitlines()] == ["one", "two"]
    assert looks == [5.0] * 4


def test_a_daemon_that_is_away_is_waited_for_and_a_wrong_name_is_not(
    gpud: Gpud, daemon: CannedDaemon, looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    del looks
    assert gpud("endpoint", "get", "nobody", "-w").code == exits.NOT_FOUND
    assert gpud("endpoint", "ls", "-w", "--interval", "0.01s").code == exits.BAD_USAGE
    assert daemon.asked("GET")
    monkeypatch.setenv("GPUD_SOCKET", "/nowhere/api.sock")
    ran = gpud("gpu", "ls", "--watch")
    assert (ran.code, ran.err.count("Trying again.")) == (exits.INTERRUPTED, 4)


def test_only_what_exists_is_watched() -> None:
    commands = {command.words: command for command in all_commands()}
    assert commands.keys() >= WATCHED
    for words in WATCHED:
        assert "watch" in {option.name for option in commands[words].options}
        assert len({option.name for option in commands[words].options}) == len(commands[words].options)
