"""The revisions that matter now: those endpoints may go to or come from, and those of live workers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gpud.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gpud.core.ids import EndpointName, Revision
    from gpud.core.revision import RevisionRecord, RevisionState


class RevisionBook:
    """Part of the fleet's state: records by endpoint and hash, and every number ever given."""

    def __init__(self) -> None:
        self._records: dict[EndpointName, dict[Revision, RevisionRecord]] = defaultdict(dict)
        self._numbers: dict[EndpointName, dict[Revision, int]] = defaultdict(dict)

    def load(
        self, records: Iterable[RevisionRecord], numbers: Iterable[tuple[EndpointName, Revision, int]]
    ) -> None:
        """Take over what the store has."""
        for record in records:
            self.put(record)
        for name, revision, number in numbers:
            self._numbers[name][revision] = number

    def put(self, record: RevisionRecord) -> None:
        """Add a record, or replace one."""
        self._records[record.name][record.revision] = record
        self._numbers[record.name][record.revision] = record.number

    def get(self, name: EndpointName, revision: Revision) -> RevisionRecord | None:
        """One record; None when it does not matter now."""
        return self._records.get(name, {}).get(revision)

    def of(self, name: EndpointName) -> Iterator[RevisionRecord]:
        """Records of an endpoint."""
        yield from self._records.get(name, {}).values()

    def in_state(self, name: EndpointName, state: RevisionState) -> RevisionRecord | None:
        """The endpoint's newest revision in a state."""
        found = [record for record in self.of(name) if record.state is state]
        return max(found, key=lambda record: record.changed_at_ms, default=None)

    def number_of(self, name: EndpointName, revision: Revision) -> int:
        """The revision's number; the next free one when it has none yet."""
        numbers = self._numbers[name]
        return numbers.get(revision) or 1 + max(numbers.values(), default=0)

    def forget(self, name: EndpointName, *, but: Iterable[Revision] = ()) -> None:
        """Drop the records of an endpoint, except those named; numbers are kept for good."""
        kept = set(but)
        records = self._records.pop(name, {})
        left = {revision: record for revision, record in records.items() if revision in kept}
        if left:
            self._records[name] = left


def find_revision(records: Sequence[RevisionRecord], name: str, wanted: str) -> RevisionRecord:
    """Find a revision by its number or the beginning of its hash.

    Raises:
        NotFound: None or several are meant.
    """
    found = [record for record in records if str(record.number) == wanted]
    found = found or [record for record in records if record.revision.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    several = " Several begin so." if found else ""
    raise NotFound(
        f"Endpoint {name} has no revision {wanted!r}.{several} `gpud endpoint revisions {name}` lists them."
    )
