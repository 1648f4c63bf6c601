"""The completion scripts do their work in the shells they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Each has the shell load gpud's own script, and prints what it offers for a word that is begun.
_ASKS = {
    "bash": (
        'eval "$(gpud completion bash)"; COMP_WORDS=(gpud {words}); COMP_CWORD={last}; _gpud; '
        'printf "%s\\n" "${{COMPREPLY[@]}}"'
    ),
    "zsh": (
        "compdef() {{ }}; compadd() {{ [[ $1 == -a ]] && print -l -- ${{(P)2}} }}; "
        'eval "$(gpud completion zsh)"; words=(gpud {words}); CURRENT=$(({last} + 1)); _gpud'
    ),
    "fish": "gpud completion fish | source; complete -C 'gpud {words}'",
}


@pytest.mark.parametrize("shell", _ASKS)
@pytest.mark.parametrize(
    ("words", "offered"),
    [("templ", ["template"]), ("template s", ["show"]), ("deploy --templ", ["--template"])],
)
def test_a_shell_offers_what_the_command_tables_say(
    shell: str, words: str, offered: list[str], tmp_path: Path
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "gpud").write_text(f'#!/bin/sh\nexec {sys.executable} -m gpud "$@"\n')
    (tmp_path / "gpud").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = _ASKS[shell].format(words=words, last=len(words.split()))
    flags = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[shell]
    done = subprocess.run(
        [program, flags, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == offered, done.stderr
