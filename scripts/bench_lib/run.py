"""Runs one benchmark by name."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent


def main(argv: list[str]) -> int:
    names = sorted(
        p.stem for p in HERE.glob("*.py") if "\ndef main(argv" in p.read_text() and p.stem != "run"
    )
    if not argv or argv[0] not in names:
        print(
            f"Usage: scripts/bench NAME [--quick] [--json FILE], NAME one of: {', '.join(names)}",
            file=sys.stderr,
        )
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    code: int = import_module(f"bench_lib.{argv[0]}").main(argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
