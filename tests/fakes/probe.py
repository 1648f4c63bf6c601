"""A health probe that answers what a test has written for each address."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque

from gpud.core.probing import ProbeOutcome, ProbeResult

OK = ProbeResult(outcome=ProbeOutcome.OK, status=200)
REFUSED = ProbeResult(outcome=ProbeOutcome.REFUSED)
TIMEOUT = ProbeResult(outcome=ProbeOutcome.TIMEOUT)


class FakeProbe:
    """Nobody listens until a test says so.

    Attributes:
        asked: Every probe made, oldest first: address, port, path.
        delay_s: How long an answer takes; a timeout takes the whole timeout.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []
        self.delay_s = 0.0
        self._script: defaultdict[str, deque[ProbeResult]] = defaultdict(lambda: deque([REFUSED]))

    def answer(self, address: str, *results: ProbeResult) -> None:
        """Answer probes of an address with these, in turn; the last one repeats."""
        self._script[address] = deque(results)

    async def probe(
        self,
        address: str,
        port: int,
        path: str,
        *,
        timeout_s: float,
        body: str = "",  # noqa: ARG002 - the port's own signature
    ) -> ProbeResult:
        self.asked.append((address, port, path))
        results = self._script[address]
        result = results.popleft() if len(results) > 1 else results[0]
        if result.outcome is ProbeOutcome.TIMEOUT or self.delay_s >= timeout_s:
            await asyncio.sleep(timeout_s)
            return TIMEOUT
        await asyncio.sleep(self.delay_s)
        return result
