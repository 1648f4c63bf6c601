"""What a command line said, by the names of its options and arguments."""

from __future__ import annotations


class Values:
    """What the user gave, by option and argument name; typed where it is read."""

    def __init__(self, given: dict[str, object]) -> None:
        self._given = given

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def value(self, name: str) -> object:
        """The value as parsed; None when not given."""
        return self._given.get(name)

    def text(self, name: str, default: str = "") -> str:
        """A text, or `default`."""
        value = self._given.get(name, default)
        return value if isinstance(value, str) else default

    def number(self, name: str, default: float = 0.0) -> float:
        """A number or a duration in seconds, or `default`."""
        value = self._given.get(name, default)
        return value if isinstance(value, (int, float)) else default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Whether a flag is set."""
        return self._given.get(name, default) is True

    def texts(self, name: str) -> list[str]:
        """The values of something repeatable."""
        values = self._given.get(name, [])
        return [str(value) for value in values] if isinstance(values, list) else []

    def pairs(self, name: str) -> dict[str, str]:
        """The values of a repeatable `KEY=VALUE` option."""
        values = self._given.get(name, [])
        return dict(values) if isinstance(values, list) else {}
