"""Runs the command line: `python -m gpud`, and the `gpud` script."""

import sys


def main() -> int:
    """Run one command and return its exit code."""
    from gpud.cli.main import run  # noqa: PLC0415 - a test holds how little `gpud --help` imports

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
