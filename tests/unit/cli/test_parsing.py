"""How command lines are read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.cli import grammar, main
from gpud.cli.exits import BadUsage
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.index import all_commands
from gpud.cli.parsing import duration_s, parse
from gpud.cli.values import Values

_COMMAND = Command(
    ("try",),
    "Try.",
    lambda _values, _context: 0,
    (
        Argument("first", "One."),
        Argument("second", "Two.", required=False),
        Argument("more", "Rest.", required=False, rest=True),
    ),
    (
        Option("count", "A count.", kind=grammar.WHOLE, short="c"),
        Option("share", "A share.", kind=grammar.NUMBER),
        Option("pause", "A length.", kind=grammar.DURATION),
        Option("tag", "Tags.", repeat=True, short="t"),
        Option("env", "Pairs.", kind=grammar.PAIR, repeat=True),
        Option("wait", "A flag.", kind=grammar.FLAG, negatable=True, short="w"),
        Option("colour", "A choice.", choices=("red", "green")),
    ),
)


def _fault(*words: str) -> BadUsage:
    with pytest.raises(BadUsage) as caught:
        parse(_COMMAND, words)
    return caught.value


def test_options_may_stand_between_and_after_arguments() -> None:
    values = parse(_COMMAND, ["a", "--count", "3", "b", "-t", "x", "--tag=y"])
    assert (values.text("first"), values.text("second")) == ("a", "b")
    assert values.number("count") == 3
    assert values.texts("tag") == ["x", "y"]


def test_everything_after_two_dashes_is_left_alone() -> None:
    values = parse(_COMMAND, ["a", "--", "--model", "-x", "--", "b"])
    assert values.texts("more") == ["--model", "-x", "--", "b"]
    assert "second" not in values


def test_a_flag_can_be_said_no_to_and_the_last_word_counts() -> None:
    assert parse(_COMMAND, ["a"]).flag("wait", default=True)
    assert not parse(_COMMAND, ["a", "--no-wait"]).flag("wait", default=True)
    assert parse(_COMMAND, ["a", "--no-wait", "-w"]).flag("wait")


def test_short_options_take_their_value_joined_or_apart_and_flags_bundle() -> None:
    assert parse(_COMMAND, ["a", "-c7"]).number("count") == 7
    assert parse(_COMMAND, ["a", "-c", "-7"]).number("count") == -7
    values = parse(_COMMAND, ["a", "-wc", "7"])
    assert values.flag("wait")
    assert values.number("count") == 7


def test_a_lone_dash_is_an_argument() -> None:
    assert parse(_COMMAND, ["-"]).text("first") == "-"


def test_an_environment_pair_without_a_value_is_kept_apart_from_an_empty_one() -> None:
    assert parse(_COMMAND, ["a", "--env", "A=1=2", "--env", "B=", "--env", "C"]).pairs("env") == {
        "A": "1=2",
        "B": "",
        "C": None,
    }


def test_an_unknown_option_is_named_with_its_nearest_neighbour_and_the_way_past_it() -> None:
    fault = _fault("a", "--cuont", "3")
    assert "--cuont" in fault.what
    assert "after --" in fault.what
    assert fault.todo == "Did you mean --count?"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "FIRST"),
        (["a", "b", "c"], "'c'"),
        (["a", "--count"], "--count needs a value: --count N."),
        (["a", "--count", "--wait"], "--wait is an option"),
        (["a", "--count", "3.5"], "--count: '3.5' is not a whole number."),
        (["a", "--share", "nan"], "--share: 'nan' is not a number."),
        (["a", "--pause", "soon"], "--pause: 'soon' is not a duration."),
        (["a", "--wait=yes"], "--wait takes no value."),
        (["a", "--colour", "gren"], "--colour cannot be 'gren'. It is one of red, green."),
        (["a", "-z"], "-z"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_sentence(words: list[str], told: str) -> None:
    assert told in _fault(*words).what


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300", 300),
        ("300s", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("0", 0),
        ("0.5", 0.5),
        ("250ms", 0.25),
        ("2d", 172_800),
    ],
)
def test_durations_are_read_in_every_spelling(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "m5", "-5", "1.2.3", "5 m", "1h30", "½", "٣", "."])
def test_what_is_not_a_duration_is_none(text: str) -> None:
    assert duration_s(text) is None


@given(st.text())
def test_no_text_breaks_the_reading_of_durations(text: str) -> None:
    seconds = duration_s(text)
    assert seconds is None or seconds >= 0


@given(st.lists(st.text(max_size=12), max_size=6))
def test_no_command_line_breaks_the_parser(words: list[str]) -> None:
    with contextlib.suppress(BadUsage):
        assert isinstance(parse(_COMMAND, words), Values)


@given(
    st.lists(
        st.sampled_from(["gpu", "endpoint", "--json", "--socket", "ls", "--", "-h", "help", "x", "--url=a"])
    )
)
def test_no_order_of_words_breaks_the_finding_of_commands(words: list[str]) -> None:
    with contextlib.suppress(BadUsage):
        command, _ = main.find(words)
        assert command is None or command in all_commands()


def test_global_options_may_stand_before_the_command() -> None:
    command, rest = main.find(["--socket", "/a", "--json", "worker", "ls", "-a"])
    assert command is not None
    assert command.words == ("worker", "ls")
    assert rest == ["--socket", "/a", "--json", "-a"]


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.spelling)
def test_every_command_table_is_consistent(command: Command) -> None:
    names = [
        *(a.name for a in command.arguments),
        *(o.name for o in (*command.options, *grammar.GLOBAL_OPTIONS)),
    ]
    assert len(set(names)) == len(names)
    shorts = [o.short for o in (*command.options, *grammar.GLOBAL_OPTIONS) if o.short]
    assert len(set(shorts)) == len(shorts)
    assert command.summary.endswith(".")
    for option in command.options:
        assert option.help.endswith((".", "?")), option
    if any(argument.repeat for argument in command.arguments):
        assert command.arguments[-1].repeat
