"""Every command that a message or a page tells people to type exists, with its options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpud.cli import grammar
from gpud.cli.exits import BadUsage
from gpud.cli.index import FIRST_WORDS
from gpud.cli.main import find

_ROOT = Path(__file__).parents[3]
_PAGES = [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")]
_MODULES = [*(_ROOT / "gpud").rglob("*.py"), *(_ROOT / "scripts/demo").rglob("*.py")]
_QUOTED = re.compile(r"`gpud ([^`]+)`")
_CONTINUED = re.compile(r'"\n\s*f?"')  # A message in the code that goes on on the next line.
_TYPED = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?gpud ([a-z].*)$", re.MULTILINE)


def _mentions() -> list[tuple[str, str]]:
    found = {
        (str(path.relative_to(_ROOT)), text)
        for path in (*_PAGES, *_MODULES)
        for text in _QUOTED.findall(_CONTINUED.sub("", path.read_text(encoding="utf-8")))
    }
    for path in _PAGES:
        blocks = re.findall(
            r"```(?:sh|text|console|bash)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL
        )
        found |= {(str(path.relative_to(_ROOT)), text) for block in blocks for text in _TYPED.findall(block)}
    return sorted(found)


@pytest.mark.parametrize(("where", "typed"), _mentions(), ids=lambda text: text[:60])
def test_a_command_that_is_told_to_people_exists(where: str, typed: str) -> None:
    words = typed.partition("#")[0].partition(" -- ")[0].split()
    if words[0].startswith(("-", "[", "{", "_", "COMMAND")):
        return
    assert words[0] in FIRST_WORDS, where
    try:
        command, _ = find(words)
    except BadUsage as fault:
        # `gpud key` stands for the noun as a whole.
        assert len(words) == 1, f"{where}: {fault.what}"  # noqa: PT017
        return
    if command is None:
        return
    options = (*command.options, *grammar.GLOBAL_OPTIONS)
    known = {f"--{name}" for option in options for name in (option.name, option.also, f"no-{option.name}")}
    known |= {f"-{option.short}" for option in options if option.short}
    for word in words:
        spelled = word.strip("[]").partition("=")[0]
        if spelled.startswith("-") and not spelled.startswith("--["):
            together = {f"-{letter}" for letter in spelled[1:]}  # -it is -i -t
            assert spelled in known or (spelled[1:2] != "-" and together <= known), (
                f"{where}: {command.spelling} has no {spelled}"
            )
