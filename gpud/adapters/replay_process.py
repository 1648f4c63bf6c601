"""Runs replays in a process of their own: seconds of computing that the gateway must not feel.

`python -m gpud.adapters.replay_process` reads one question as JSON from its input and writes the outcomes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpud.adapters.cron_calendar import CronCalendar
from gpud.adapters.sqlite import rows
from gpud.core.history import ArrivalBatch
from gpud.core.standby import Rung, StandbyBudget
from gpud.core.whatif import Outcome, StartSample, WhatIf
from gpud.errors import Unavailable
from gpud.fleet.replay import replay

if TYPE_CHECKING:
    from asyncio.subprocess import Process

LIMIT_S = 50.0
"""Less than the command line waits for an answer."""
_NICE = 10


class ReplayProcess:
    """The `Simulator` of the daemon: one replay at a time."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def replay(self, question: WhatIf) -> tuple[Outcome, ...]:
        """Say what each of the question's endpoints would have come to.

        Raises:
            Unavailable: It takes longer than `LIMIT_S`.
        """
        async with self._one:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", __name__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(LIMIT_S):
                    output, complaint = await process.communicate(_spelled(question))
            except TimeoutError as error:
                raise Unavailable(
                    f"The replay was given up after {LIMIT_S:g} s. Ask for a shorter period with `since`."
                ) from error
            finally:
                await _end(process)
        if process.returncode:
            raise RuntimeError(f"The replay's process failed: {complaint.decode(errors='replace')[-2000:]}")
        return tuple(Outcome(**outcome) for outcome in json.loads(output))


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _spelled(question: WhatIf) -> bytes:
    document: dict[str, Any] = {
        "endpoints": [rows.endpoint_params(endpoint) for endpoint in question.endpoints],
        "gpus": [rows.gpu_health_params(status) for status in question.gpus],
        "batches": [
            {**asdict(batch), "packed": base64.b64encode(batch.packed).decode()} for batch in question.batches
        ],
        "starts": [asdict(start) for start in question.starts],
        "standbys": asdict(question.standbys),
        "unavailable": dict(question.unavailable),
    }
    for name in ("since_ms", "until_ms", "box_starts", "endpoint_starts"):
        document[name] = getattr(question, name)
    return json.dumps(document).encode()


def _read(document: dict[str, Any]) -> WhatIf:
    batches = [{**batch, "packed": base64.b64decode(batch["packed"])} for batch in document.pop("batches")]
    return WhatIf(
        endpoints=tuple(map(rows.endpoint_of, document.pop("endpoints"))),
        gpus=tuple(map(rows.gpu_status_of, document.pop("gpus"))),
        batches=tuple(ArrivalBatch(**batch) for batch in batches),
        starts=tuple(StartSample(**start) for start in document.pop("starts")),
        standbys=StandbyBudget(**document.pop("standbys")),
        unavailable={Rung(rung): why for rung, why in document.pop("unavailable").items()},
        **document,
    )


def main() -> None:
    """Answer the question on standard input."""
    os.nice(_NICE)
    outcomes = replay(_read(json.load(sys.stdin)), CronCalendar())
    json.dump([asdict(outcome) for outcome in outcomes], sys.stdout)


if __name__ == "__main__":
    main()
