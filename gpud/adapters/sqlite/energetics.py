"""Sums up energy: by hour as it was written; of an hour that a period cuts through by the minutes in it.

What is not known by the minute counts there by the time used; by the minute it has a line of its own. By the
second nothing is known, and all energy is on that line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from gpud.adapters.sqlite.statements import SQL
from gpud.core.energy import shared_out
from gpud.core.key_shares import line_of
from gpud.core.metering import Phase
from gpud.core.usage import (
    HOUR_NS,
    MINUTE_NS,
    UNLEASED,
    UNTIMED,
    Period,
    Stretch,
    UsageBy,
    UsageRow,
    date_line,
    hours_cut,
    in_order,
    whole_hours,
)

if TYPE_CHECKING:
    import sqlite3

_FAR_FUTURE = 1 << 62

Stretches: TypeAlias = Callable[[Period, UsageBy], Iterator[Stretch]]
"""What was used in a period, as a report by something has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    gpu_uuid: str
    worker_id: str
    endpoint: str
    phase: Phase
    hour: int
    mj: int
    sampled_mj: int
    minute: int | None = None

    @property
    def of_hour(self) -> tuple[str, str, Phase, int]:
        """What has one sum by hour."""
        return self.gpu_uuid, self.worker_id, self.phase, self.hour

    @property
    def user(self) -> tuple[str, Phase, str]:
        """Whose: a worker in a phase, or else nobody, of one GPU."""
        return self.worker_id, self.phase, "" if self.worker_id else self.gpu_uuid


def with_energy(lines: tuple[UsageRow, ...], drawn: dict[str, tuple[int, int]]) -> tuple[UsageRow, ...]:
    """Lines of a report with what was drawn; one that has nothing else becomes a line too."""
    found = {line.key: line for line in lines}
    for key, (mj, sampled_mj) in drawn.items():
        line = found.get(key) or UsageRow(
            key=key, gpu_ns=0, wall_ns=0, billed_seconds=0, sessions=0, phases_ns={}
        )
        found[key] = replace(line, energy_mj=mj, sampled_mj=sampled_mj)
    return tuple(found[key] for key in sorted(found, key=in_order))


def energy_by_line(
    connection: sqlite3.Connection, by: UsageBy, endpoint: str, period: Period, stretches: Stretches
) -> dict[str, tuple[int, int]]:
    """Millijoules by line, and what of them was reckoned from power.

    Args:
        connection: In a read transaction.
        by: What has a line.
        endpoint: Only this one's; empty for all.
        period: What counts.
        stretches: What was used, to share by.
    """
    pieces = list(_pieces(connection, by, endpoint, period, stretches))
    mj: Counter[str] = Counter()
    sampled_mj: Counter[str] = Counter()
    keys = _keys(stretches(period, UsageBy.KEY)) if by is UsageBy.KEY and pieces else {}
    for piece in pieces:
        lines = [(_line(piece, by), 1)]
        if by is UsageBy.KEY:
            lines = sorted(keys[piece.worker_id, piece.phase].items()) or [(line_of(piece.phase), 1)]
        mj.update(dict(shared_out(piece.mj, lines)))
        sampled_mj.update(dict(shared_out(piece.sampled_mj, lines)))
    return {key: (mj[key], sampled_mj[key]) for key in mj}


def _line(piece: _Piece, by: UsageBy) -> str:
    match by:
        case UsageBy.ENDPOINT:
            return piece.endpoint or UNLEASED
        case UsageBy.WORKER:
            return piece.worker_id or UNLEASED
        case UsageBy.GPU:
            return piece.gpu_uuid
        case UsageBy.PHASE:
            return piece.phase.value
        case UsageBy.KEY:
            return line_of(piece.phase)
        case UsageBy.MINUTE if piece.minute is not None:
            return date_line(piece.minute * MINUTE_NS, by)
        case UsageBy.MINUTE | UsageBy.SECOND:
            return UNTIMED
        case _:
            return date_line(piece.hour * HOUR_NS, by)


def _keys(stretches: Iterator[Stretch]) -> defaultdict[tuple[str, Phase], Counter[str]]:
    found: defaultdict[tuple[str, Phase], Counter[str]] = defaultdict(Counter)
    for stretch in stretches:
        line = stretch.key or line_of(stretch.phase)
        found[stretch.worker_id, stretch.phase][line] += stretch.ns
    return found


def _pieces(
    connection: sqlite3.Connection, by: UsageBy, endpoint: str, period: Period, stretches: Stretches
) -> Iterator[_Piece]:
    if by is UsageBy.MINUTE:
        timed, untimed = _timed(connection, endpoint, whole_hours(period))
        yield from timed
        yield from untimed
    else:
        yield from _hours(connection, endpoint, whole_hours(period))
    for hour in hours_cut(period):
        timed, found = _timed(connection, endpoint, (hour, hour + 1))
        yield from filter(None, (_clipped(piece, period) for piece in timed))
        if not found:
            continue
        start_ns, end_ns = hour * HOUR_NS, (hour + 1) * HOUR_NS
        since_ns, until_ns = period.clip(start_ns, end_ns)
        used = [
            _used(stretches(Period(since_ns=start_ns, until_ns=at_ns), UsageBy.WORKER))
            for at_ns in (since_ns, until_ns, end_ns)
        ]
        for piece in found:
            before, until, whole = (each[piece.user] for each in used)
            if not whole:  # all that is known is the clock
                before, until, whole = since_ns - start_ns, until_ns - start_ns, HOUR_NS
            yield replace(
                piece,
                mj=piece.mj * until // whole - piece.mj * before // whole,
                sampled_mj=piece.sampled_mj * until // whole - piece.sampled_mj * before // whole,
            )


def _timed(
    connection: sqlite3.Connection, endpoint: str, hours: tuple[int | None, int | None]
) -> tuple[list[_Piece], list[_Piece]]:
    """What is known by the minute in some hours, and what is left of each of them."""
    timed = list(_minutes(connection, endpoint, hours))
    known_mj: Counter[tuple[str, str, Phase, int]] = Counter()
    known_sampled_mj: Counter[tuple[str, str, Phase, int]] = Counter()
    for piece in timed:
        known_mj[piece.of_hour] += piece.mj
        known_sampled_mj[piece.of_hour] += piece.sampled_mj
    rest = [
        replace(
            piece,
            mj=piece.mj - known_mj[piece.of_hour],
            sampled_mj=piece.sampled_mj - known_sampled_mj[piece.of_hour],
        )
        for piece in _hours(connection, endpoint, hours)
    ]
    return timed, [piece for piece in rest if piece.mj]


def _clipped(piece: _Piece, period: Period) -> _Piece | None:
    """What of a minute lies in a period, evenly over it."""
    start_ns = (piece.minute or 0) * MINUTE_NS
    since_ns, until_ns = (at_ns - start_ns for at_ns in period.clip(start_ns, start_ns + MINUTE_NS))
    if until_ns <= since_ns:
        return None
    return replace(
        piece,
        mj=piece.mj * until_ns // MINUTE_NS - piece.mj * since_ns // MINUTE_NS,
        sampled_mj=piece.sampled_mj * until_ns // MINUTE_NS - piece.sampled_mj * since_ns // MINUTE_NS,
    )


def _used(stretches: Iterator[Stretch]) -> Counter[tuple[str, Phase, str]]:
    found: Counter[tuple[str, Phase, str]] = Counter()
    for stretch in stretches:
        gpu_uuid = "" if stretch.worker_id else stretch.gpu_uuids[0]
        found[stretch.worker_id, stretch.phase, gpu_uuid] += stretch.ns * stretch.share_ppm
    return found


def _hours(
    connection: sqlite3.Connection, endpoint: str, hours: tuple[int | None, int | None]
) -> Iterator[_Piece]:
    first, last = hours
    params = {
        "endpoint": endpoint,
        "first": -_FAR_FUTURE if first is None else first,
        "last": _FAR_FUTURE if last is None else last,
    }
    for row in connection.execute(SQL["usage_energy"], params):
        yield _piece(row, hour=row["hour"])


def _minutes(
    connection: sqlite3.Connection, endpoint: str, hours: tuple[int | None, int | None]
) -> Iterator[_Piece]:
    first, last = hours
    params = {
        "endpoint": endpoint,
        "first": -_FAR_FUTURE if first is None else first * 60,
        "last": _FAR_FUTURE if last is None else last * 60,
    }
    for row in connection.execute(SQL["usage_energy_minutes"], params):
        yield _piece(row, hour=row["minute"] // 60, minute=row["minute"])


def _piece(row: sqlite3.Row, *, hour: int, minute: int | None = None) -> _Piece:
    return _Piece(
        gpu_uuid=row["gpu_uuid"],
        worker_id=row["worker_id"],
        endpoint=row["endpoint"],
        phase=Phase(row["phase"]),
        hour=hour,
        mj=row["mj"],
        sampled_mj=row["sampled_mj"],
        minute=minute,
    )
