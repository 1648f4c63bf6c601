"""Whether the gateway leaks: thousands of connections that come, leave at any moment, and meet dying workers.

See tests/contract/gateway/soaking.py. A minute of `--minutes` is split into tenths; `--quick` takes one.
"""

from __future__ import annotations

import argparse
import sys

import uvloop
from bench_lib.report import Report, add_arguments

from tests.contract.gateway.soaking import Soak

PHASES_A_MINUTE = 10
REST_S = 0.5


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench soak", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument(
        "--rest-s",
        type=float,
        default=REST_S,
        help="longest rest of a client",
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    report = Report("soak", ["uvloop"])
    minutes = 1.0 if options.quick else options.minutes
    phases = max(4, round(minutes * PHASES_A_MINUTE))
    soak = Soak(phases=phases, phase_s=60 / PHASES_A_MINUTE, rest_s=options.rest_s, seed=options.seed)
    uvloop.run(soak.run())
    for name, values in soak.readings.items():
        report.add(name, "gpud", name, values[len(values) // 3 :])
    report.add("requests", "gpud", "requests", [soak.requests])
    report.finish(options)
    faults = soak.faults()
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0
