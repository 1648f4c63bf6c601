"""Reads a command line against the tables of `gpud.cli.grammar`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpud.cli import grammar
from gpud.cli.exits import BadUsage
from gpud.cli.values import Values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpud.cli.grammar import Argument, Command, Option

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse(command: Command, words: Sequence[str]) -> Values:
    """Read the words after a command's own.

    Raises:
        BadUsage: An unknown option, a missing or surplus argument, a value of the wrong kind.
    """
    reader = _Reader(command)
    given = reader.read(words)
    _check_arguments(command, given)
    return Values(given)


class _Reader:
    def __init__(self, command: Command) -> None:
        self._command = command
        self._long: dict[str, tuple[Option, bool]] = {}
        self._short: dict[str, Option] = {}
        for option in (*command.options, *grammar.GLOBAL_OPTIONS):
            self._long[option.name] = (option, True)
            if option.negatable:
                self._long[f"no-{option.name}"] = (option, False)
            if option.also:
                self._long[option.also] = (option, True)
            if option.short:
                self._short[option.short] = option
        self._given: dict[str, object] = {}
        self._positional: list[str] = []

    def read(self, words: Sequence[str]) -> dict[str, object]:
        queue = list(reversed(words))
        while queue:
            word = queue.pop()
            if word == "--":
                self._take_rest(list(reversed(queue)))
                break
            if word.startswith("--"):
                self._take_long(word, queue)
            elif word.startswith("-") and word != "-":
                self._take_short(word, queue)
            else:
                self._positional.append(word)
        self._place()
        return self._given

    def _take_rest(self, words: list[str]) -> None:
        rest = next((argument for argument in self._command.arguments if argument.rest), None)
        if rest is None:
            self._positional.extend(words)
        else:
            self._given[rest.name] = words

    def _take_long(self, word: str, queue: list[str]) -> None:
        name, equals, inline = word[2:].partition("=")
        found = self._long.get(name)
        if found is None:
            self._unknown(f"--{name}", [f"--{known}" for known in self._long])
            return
        option, positive = found
        if option.kind == grammar.FLAG:
            if equals:
                raise BadUsage(f"--{name} takes no value.", todo=f"Say just --{name}.")
            self._given[option.name] = positive
        elif equals:
            self._store(option, inline)
        else:
            self._store(option, self._next(option, f"--{name}", queue))

    def _take_short(self, word: str, queue: list[str]) -> None:
        option = self._short.get(word[1])
        if option is None:
            if word[1:2].isdigit():  # A negative number is a value, not an option.
                self._positional.append(word)
                return
            self._unknown(word[:2], [f"-{known}" for known in self._short])
            return
        if option.kind == grammar.FLAG:
            self._given[option.name] = True
            if len(word) > 2:
                queue.append(f"-{word[2:]}")
        elif len(word) > 2:
            self._store(option, word[2:].removeprefix("="))
        else:
            self._store(option, self._next(option, word, queue))

    def _next(self, option: Option, spelled: str, queue: list[str]) -> str:
        if not queue or queue[-1] == "--":
            raise BadUsage(f"{spelled} needs a value: {spelled} {metavar_of(option)}.")
        value = queue.pop()
        if value.startswith("--") and value[2:].partition("=")[0] in self._long:
            raise BadUsage(f"{spelled} needs a value, and {value} is an option.")
        return value

    def _store(self, option: Option, text: str) -> None:
        value = convert(option, text)
        if option.repeat:
            values = self._given.setdefault(option.name, [])
            if isinstance(values, list):
                values.append(value)
        else:
            self._given[option.name] = value

    def _unknown(self, spelled: str, known: list[str]) -> None:
        rest = next((argument for argument in self._command.arguments if argument.rest), None)
        after = f" What belongs to the container goes after --, as in `… -- {spelled}`." if rest else ""
        raise BadUsage(
            f"{self._command.spelling} has no option {spelled}.{after}",
            todo=suggestion(spelled, known) or f"See {self._command.spelling} --help.",
        )

    def _place(self) -> None:
        queue = list(reversed(self._positional))
        for argument in self._command.arguments:
            if argument.rest:
                continue
            if argument.repeat:
                if queue:
                    self._given[argument.name] = list(reversed(queue))
                queue = []
            elif queue:
                self._given[argument.name] = _chosen(argument, queue.pop())
        if queue:
            surplus = queue[-1]
            takes_rest = any(argument.rest for argument in self._command.arguments)
            raise BadUsage(
                f"{self._command.spelling} does not know what to do with {surplus!r}.",
                todo=f"What belongs to the container goes after --, as in `… -- {surplus}`."
                if takes_rest
                else f"See {self._command.spelling} --help.",
            )


def _check_arguments(command: Command, given: dict[str, object]) -> None:
    if given.get("help"):
        return
    missing = [a.name for a in command.arguments if a.required and a.name not in given]
    if missing:
        names = " and ".join(name.upper() for name in missing)
        raise BadUsage(f"{command.spelling} needs {names}.", todo=f"Usage: {usage_line(command)}")


def _chosen(argument: Argument, text: str) -> str:
    if argument.choices and text not in argument.choices:
        raise BadUsage(
            f"{argument.name.upper()} cannot be {text!r}.",
            todo=f"It is one of {', '.join(argument.choices)}.",
        )
    return text


def convert(option: Option, text: str) -> object:
    """Read one value of an option.

    Raises:
        BadUsage: The text is not of the option's kind.
    """
    match option.kind:
        case grammar.WHOLE:
            return _whole(option, text)
        case grammar.NUMBER:
            return _number(option, text)
        case grammar.DURATION:
            seconds = duration_s(text)
            if seconds is None:
                raise BadUsage(
                    f"--{option.name}: {text!r} is not a duration.",
                    todo="Say seconds, or a number with ms, s, m, h or d: 300, 300s, 5m, 1h30m.",
                )
            return int(seconds) if seconds.is_integer() else seconds
        case grammar.PAIR:
            key, _, value = text.partition("=")
            return (key, value) if "=" in text else (key, None)
        case _:
            return _one_of_choices(option, text)


def _one_of_choices(option: Option, text: str) -> str:
    if option.choices and text not in option.choices:
        near = suggestion(text, option.choices)
        raise BadUsage(
            f"--{option.name} cannot be {text!r}. It is one of {', '.join(option.choices)}.", todo=near
        )
    return text


def _whole(option: Option, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadUsage(f"--{option.name}: {text!r} is not a whole number.") from None


def _number(option: Option, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadUsage(f"--{option.name}: {text!r} is not a number.")
    return value


def duration_s(text: str) -> float | None:
    """Read `300`, `300s`, `5m` or `1h30m` as seconds; None when it is none of these."""
    total, digits, unit = 0.0, "", ""
    parts: list[tuple[str, str]] = []
    for character in text.strip():
        if character.isascii() and (character.isdigit() or character == "."):
            if unit:
                parts.append((digits, unit))
                digits, unit = "", ""
            digits += character
        else:
            unit += character
    parts.append((digits, unit or ("s" if not parts else "")))
    for amount, name in parts:
        if name not in _SECONDS or not amount.strip(".") or amount.count(".") > 1:
            return None
        total += float(amount) * _SECONDS[name]
    return total


def metavar_of(option: Option) -> str:
    """What stands for an option's value in help and messages."""
    if option.metavar:
        return option.metavar
    if option.choices:
        return "|".join(option.choices)
    return {
        grammar.WHOLE: "N",
        grammar.NUMBER: "X",
        grammar.DURATION: "TIME",
        grammar.PAIR: "KEY=VALUE",
    }.get(option.kind, "TEXT")


def usage_line(command: Command) -> str:
    """The command with its arguments, as one line."""
    words = [command.spelling]
    if command.options:
        words.append("[OPTIONS]")
    for argument in command.arguments:
        name = "|".join(argument.choices) if argument.choices else argument.name.upper()
        name += "..." if argument.repeat or argument.rest else ""
        if argument.rest:
            words.append(f"[-- {name}]")
        else:
            words.append(name if argument.required else f"[{name}]")
    return " ".join(words)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`Did you mean …?` for the nearest of `known`, or an empty text when none is near."""
    import difflib  # noqa: PLC0415 - only a mistake pays for it

    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.55)
    return f"Did you mean {near[0]}?" if near else ""
