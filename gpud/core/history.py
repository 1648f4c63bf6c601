"""What came and how long it took: the record of an endpoint's requests, without anything of their content.

A record is kept as batches of packed bytes: five or six for a request at most times. Of a minute with more
requests than `EXACT_MAX`, those of one tenth of a second are kept as one line with their number and means.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

EXACT_MAX = 600
"""Requests of one batch that are kept one by one."""

_BUCKET_MS = 100
_MORE = 0x80
_LOW_BITS = 0x7F


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Some requests that came at the same moment; mostly one.

    Args:
        at_ms: Unix wall time of the arrival.
        waited_ms: From then until a worker had it, or until it left.
        service_ms: At the worker; None when it never reached one.
        requests: How many; times are means where there are several.
    """

    at_ms: int
    waited_ms: int = 0
    service_ms: int | None = None
    requests: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalBatch:
    """A packed stretch of an endpoint's record.

    Args:
        first_ms: Unix wall time of its first arrival.
        last_ms: Of its last one.
        requests: In it.
        packed: See `pack`.
    """

    first_ms: int
    last_ms: int
    requests: int
    packed: bytes


class Stretch:
    """A stretch of an endpoint's record in the making: bounded, whatever comes."""

    def __init__(self) -> None:
        self._exact: list[Arrival] = []
        self._merged: dict[tuple[int, bool], list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._exact or self._merged)

    def add(self, at_ms: int, waited_ms: int, service_ms: int | None) -> None:
        """Take down one request."""
        if self._merged:
            self._merge(at_ms, waited_ms, service_ms)
            return
        self._exact.append(Arrival(at_ms=at_ms, waited_ms=waited_ms, service_ms=service_ms))
        if len(self._exact) > EXACT_MAX:
            exact, self._exact = self._exact, []
            for arrival in exact:
                self._merge(arrival.at_ms, arrival.waited_ms, arrival.service_ms)

    def batch(self) -> ArrivalBatch:
        """Pack what was taken down; at least one request."""
        arrivals = self._exact or [_mean(served, *sums) for (_, served), sums in self._merged.items()]
        ordered = sorted(arrivals, key=lambda arrival: arrival.at_ms)
        return ArrivalBatch(
            first_ms=ordered[0].at_ms,
            last_ms=ordered[-1].at_ms,
            requests=sum(arrival.requests for arrival in ordered),
            packed=_pack(ordered),
        )

    def _merge(self, at_ms: int, waited_ms: int, service_ms: int | None) -> None:
        """Put together what came within a tenth of a second, served ones and others apart."""
        key = (at_ms // _BUCKET_MS, service_ms is not None)
        sums = self._merged.get(key)
        if sums is None:
            self._merged[key] = [at_ms, 1, waited_ms, service_ms or 0]
            return
        sums[0] = min(sums[0], at_ms)
        sums[1] += 1
        sums[2] += waited_ms
        sums[3] += service_ms or 0


def _mean(served: bool, at_ms: int, requests: int, waited_ms: int, service_ms: int) -> Arrival:
    return Arrival(
        at_ms=at_ms,
        waited_ms=round(waited_ms / requests),
        service_ms=round(service_ms / requests) if served else None,
        requests=requests,
    )


def arrivals_of(batches: Iterable[ArrivalBatch]) -> list[Arrival]:
    """Unpack a record, in order of arrival."""
    found = [arrival for batch in batches for arrival in _unpack(batch.packed)]
    return sorted(found, key=lambda arrival: arrival.at_ms)


def _pack(ordered: Sequence[Arrival]) -> bytes:
    plain = bytearray()
    last_ms = 0
    for arrival in ordered:
        service = 0 if arrival.service_ms is None else arrival.service_ms + 1
        for number in (arrival.at_ms - last_ms, arrival.waited_ms, service, arrival.requests - 1):
            _put(plain, number)
        last_ms = arrival.at_ms
    return zlib.compress(bytes(plain), 6)


def _unpack(packed: bytes) -> Iterator[Arrival]:
    numbers = _numbers(zlib.decompress(packed))
    at_ms = 0
    for passed_ms in numbers:
        at_ms += passed_ms
        waited_ms, service, more = next(numbers), next(numbers), next(numbers)
        yield Arrival(
            at_ms=at_ms,
            waited_ms=waited_ms,
            service_ms=service - 1 if service else None,
            requests=more + 1,
        )


def _put(plain: bytearray, number: int) -> None:
    """Append a number from 0 on, seven bits a byte, lowest first."""
    while number > _LOW_BITS:
        plain.append(number & _LOW_BITS | _MORE)
        number >>= 7
    plain.append(number)


def _numbers(plain: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in plain:
        number |= (byte & _LOW_BITS) << shift
        shift += 7
        if not byte & _MORE:
            yield number
            number = shift = 0
