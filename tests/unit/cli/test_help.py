"""Help pages, what they cost, and what wrong commands are told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gpud.cli
from gpud.cli import exits
from gpud.cli.help import command_help, top_help
from gpud.cli.index import all_commands
from gpud.cli.main import run

if TYPE_CHECKING:
    from gpud.cli.grammar import Command
    from tests.unit.cli.conftest import Gpud

_CLI = Path(gpud.cli.__file__).parent
_ROOT = _CLI.parents[1]


def _imported_by(code: str) -> set[str]:
    program = f"import sys; before = set(sys.modules); {code}; print(chr(10).join(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ran.stdout.split("\n"))


def test_the_kept_help_page_is_what_the_command_tables_make() -> None:
    assert (_CLI / "help.txt").read_text(encoding="utf-8") == top_help(), "run scripts/docs cli"


def test_the_reference_page_is_current() -> None:
    ran = subprocess.run(
        [sys.executable, _ROOT / "scripts/lib/docs.py", "cli", "--check"],
        env={"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_every_exit_code_has_a_meaning() -> None:
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert codes == set(exits.MEANINGS)


def test_the_help_page_names_every_command(gpud: Gpud) -> None:
    ran = gpud("--help")
    assert ran.code == 0
    for command in all_commands():
        assert all(word in ran.out for word in command.words)


def test_the_help_page_imports_nothing_but_the_way_to_it() -> None:
    loaded = _imported_by(
        "import io; real, sys.stdout = sys.stdout, io.StringIO(); from gpud.cli.main import run; "
        "run(['--help']); sys.stdout = real"
    )
    assert {name for name in loaded if name} <= {"gpud", "gpud.cli", "gpud.cli.main", "__future__"}


def test_a_listing_imports_no_slow_library() -> None:
    slow = {
        "rich",
        "pydantic",
        "aiohttp",
        "asyncio",
        "argparse",
        "http.client",
        "urllib.parse",
        "dataclasses",
        "inspect",
    }
    loaded = _imported_by("from gpud.cli.main import run; run(['endpoint', 'ls', '--socket', '/nowhere'])")
    assert not slow & loaded


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.spelling)
def test_every_command_has_a_help_page_that_fits_a_terminal(command: Command, gpud: Gpud) -> None:
    ran = gpud(*command.words, "--help")
    assert ran.code == 0
    assert ran.out == command_help(command)
    assert command.summary in ran.out
    assert max(len(line) for line in ran.out.split("\n")) <= 100
    assert gpud("help", *command.words).out == ran.out


def test_a_noun_lists_its_commands(gpud: Gpud) -> None:
    ran = gpud("worker", "--help")
    assert ran.code == 0
    assert [line.split()[1] for line in ran.out.split("\n") if line.startswith("  worker")] == [
        "ls",
        "get",
        "stats",
        "stop",
    ]


@pytest.mark.parametrize(
    ("words", "what", "todo"),
    [
        (["enpoint", "ls"], "gpud has no command 'enpoint'.", "Did you mean endpoint?"),
        (["endpoint", "lst"], "gpud endpoint has no 'lst'", "Did you mean ls?"),
        (
            ["endpoint"],
            "gpud endpoint needs one of ls, get, scale, revisions, retry, rm, starts.",
            "See gpud endpoint --help.",
        ),
        (["worker", "ls", "--endpont", "x"], "no option --endpont", "Did you mean --endpoint?"),
        (["zzzz"], "gpud has no command 'zzzz'.", "See gpud --help."),
        (["--json"], "The command is missing.", "See gpud --help."),
    ],
)
def test_a_wrong_command_gets_one_message_and_exit_code_2(
    words: list[str], what: str, todo: str, gpud: Gpud
) -> None:
    ran = gpud(*words)
    assert ran.code == 2
    assert ran.out == ""
    first, second = ran.err.rstrip("\n").split("\n")
    assert first.startswith("gpud: ")
    assert what in first
    assert second.strip() == todo


def test_no_command_at_all_shows_the_help_on_stderr(gpud: Gpud) -> None:
    ran = gpud()
    assert (ran.code, ran.out, ran.err) == (2, "", top_help())


def test_the_version_is_told_without_a_daemon(gpud: Gpud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUD_SOCKET", "/nowhere")
    assert gpud("version").out.startswith("gpud ")
    assert gpud("--version").out == gpud("version").out
    assert json.loads(gpud("version", "--json").out)["python"].startswith("3.")


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_words: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpud.cli.main._dispatch", interrupted)
    assert run(["status"]) == 130


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    program = "import sys; from gpud.cli.main import run; sys.exit(run(['deploy', '--help']))"
    closed = f'{sys.executable} -c "{program}" | true; echo ${{PIPESTATUS[0]}}'
    ran = subprocess.run(["bash", "-c", closed], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert ran.stdout.strip() in ("0", "141")
