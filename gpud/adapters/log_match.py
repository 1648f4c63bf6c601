"""Says which lines a question asks for: text, regular expressions of RE2, streams and times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import re2

from gpud.core.log_lines import LogLine, stamp_of
from gpud.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.ports.logs import LogQuery

_PATTERN_BYTES_MAX = 1 << 20
_ANCHORS = "^$\\"


class LineFilter:
    """What one question asks for.

    RE2 takes time linear in the text, whatever the expression, and lets others run meanwhile.

    Raises:
        InvalidRequest: The regular expression cannot be used.
    """

    def __init__(self, query: LogQuery) -> None:
        self._streams = query.streams
        self.since_stamp = stamp_of(query.since_ns).decode() if query.since_ns else ""
        self.until_stamp = stamp_of(query.until_ns).decode() if query.until_ns else ""
        self._windows: dict[str, list[tuple[str, str]]] = {}
        for window in query.windows:
            if window.since_ns or window.until_ns:
                until = stamp_of(window.until_ns).decode() if window.until_ns else ""
                self._windows.setdefault(window.worker_id, []).append(
                    (stamp_of(window.since_ns).decode(), until)
                )
        folded = query.ignore_case and query.grep
        self._grep = "" if folded else query.grep
        self._needle = self._grep.encode()
        expressions = [re2.escape(query.grep)] if folded else []
        expressions += [query.regex] if query.regex else []
        self._patterns = [_compile(text, ignore_case=query.ignore_case) for text in expressions]
        self._sieves = [
            pattern
            for text, pattern in zip(expressions, self._patterns, strict=True)
            if not any(char in text for char in _ANCHORS)
        ]

    def candidates(self, block: bytes, position: int) -> Iterator[tuple[bytes, int]]:
        """Lines of a block that may be wanted, with the position behind each.

        Args:
            block: Whole records.
            position: Of its first byte.
        """
        if self._needle:
            if self._needle not in block:
                return
        elif self._sieves and not self._may_match(block):
            return
        at = 0
        while at < len(block):
            end = block.find(b"\n", at)
            if self._needle:
                # Straight to the next line that holds the text.
                hit = block.find(self._needle, at)
                if hit < 0:
                    return
                at = block.rfind(b"\n", at, hit) + 1 or at
                end = block.find(b"\n", hit)
            yield block[at:end], position + end + 1
            at = end + 1

    def _may_match(self, block: bytes) -> bool:
        text = block.decode("utf-8", "replace")
        return all(pattern.search(text) is not None for pattern in self._sieves)

    def takes(self, line: LogLine, worker_id: str) -> bool:
        """Whether a line is asked for."""
        if self._streams and line.stream not in self._streams:
            return False
        if self.since_stamp and line.stamp < self.since_stamp:
            return False
        if self.until_stamp and line.stamp >= self.until_stamp:
            return False
        spans = self._windows.get(worker_id)
        if spans is not None and not any(a <= line.stamp and (not b or line.stamp < b) for a, b in spans):
            return False
        if self._grep and self._grep not in line.text:
            return False
        return all(pattern.search(line.text) is not None for pattern in self._patterns)


def _compile(text: str, *, ignore_case: bool) -> Any:  # noqa: ANN401 - the library has no types
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES_MAX
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(text, options)
    except re2.error as error:
        why = f"is no expression of RE2: {error}"
        raise InvalidRequest(f"regex: {why}.", fields={"regex": why}) from error
