"""`gpud completion`: the script that lets a shell complete gpud's commands.

The scripts are a few lines that ask `gpud __complete WORDS...`, so that one implementation, reading
the command tables, serves every shell and never lags behind the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.grammar import Argument, Command
from gpud.cli.index import FIRST_WORDS, commands_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_NAMES_TIMEOUT_S = 0.5

_SCRIPTS = {
    "bash": """\
_gpud() {
    local IFS=$'\\n'
    COMPREPLY=($(gpud __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default
}
complete -F _gpud gpud
""",
    "zsh": """\
#compdef gpud
_gpud() {
    local -a found
    found=(${(f)"$(gpud __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -a found; else _files; fi
}
compdef _gpud gpud
""",
    "fish": """\
function __gpud_complete
    set -l tokens (commandline -opc) (commandline -ct)
    gpud __complete $tokens[2..-1] 2>/dev/null
end
complete -c gpud -f -a '(__gpud_complete)'
""",
}


def _completion(values: Values, context: Context) -> int:
    context.print_text(_SCRIPTS[values.text("shell")].rstrip("\n"))
    return exits.OK


def candidates(words: Sequence[str], context: Context) -> list[str]:
    """What may stand for the last of `words`, which is begun or empty.

    Args:
        words: What is on the command line after `gpud`, up to the cursor.
        context: Whose daemon is asked for names.
    """
    *before, begun = words or [""]
    if not before:
        found: Iterable[str] = FIRST_WORDS
    elif before[0] not in FIRST_WORDS:
        return []
    else:
        found = _after(commands_of(before[0]), before, begun, context)
    return [word for word in found if word.startswith(begun)]


def _after(commands: tuple[Command, ...], before: list[str], begun: str, context: Context) -> Iterable[str]:
    if len(commands[0].words) == 2:
        if len(before) == 1:
            return [command.words[1] for command in commands]
        commands = tuple(command for command in commands if command.words[1] == before[1])
    if not commands or "--" in before:
        return []
    command = commands[0]
    options = {f"--{option.name}": option for option in (*command.options, *grammar.GLOBAL_OPTIONS)}
    options |= {f"--{option.also}": option for option in command.options if option.also}
    taken = options.get(before[-1])
    if taken is not None and taken.kind != grammar.FLAG:
        return _names(context) if taken.kind == grammar.ENDPOINT else taken.choices
    if begun.startswith("-"):
        negated = [f"--no-{o.name}" for o in command.options if o.negatable]
        return [*options, *negated] if begun.startswith("--") else options
    wanted = next((argument for argument in command.arguments if not argument.rest), None)
    if wanted is None or (len(before) > len(command.words) and not wanted.repeat):
        return []
    return _names(context) if wanted.kind == grammar.ENDPOINT else wanted.choices


def _names(context: Context) -> list[str]:
    """Names of the endpoints; none when the daemon does not tell them at once."""
    client = context.new_client(timeout_s=_NAMES_TIMEOUT_S)
    try:
        return [str(endpoint.get("name")) for endpoint in client.items("/v1/endpoints")]
    except exits.CommandFailed:
        return []
    finally:
        client.close()


COMMANDS = (
    Command(
        ("completion",),
        "Print the completion script of a shell.",
        _completion,
        (Argument("shell", "Which shell.", choices=tuple(_SCRIPTS)),),
        examples=(
            "gpud completion bash > /etc/bash_completion.d/gpud",
            "gpud completion zsh > /usr/local/share/zsh/site-functions/_gpud",
            "gpud completion fish > ~/.config/fish/completions/gpud.fish",
        ),
    ),
)
