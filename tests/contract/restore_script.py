"""Restores a backup and dies after the n-th step of it, for every n: `kill -9` between any two.

Runs as `python -m tests.contract.restore_script BACKUP DATA_DIR FOLDER`. Each run works on a copy of DATA_DIR
in FOLDER/N; a step is a call of the system that changes what is on the disk. Prints how many runs there were.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from gpud.adapters.backups import restore

KILLED = 137
STEPS = ("open", "mkdir", "rename", "unlink", "rmdir", "fsync", "write")


def die_at(step: int) -> None:
    """Have this process end at the given call, before it is made."""
    left = [step]

    def counting(plain: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os._exit(KILLED)
            return plain(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, counting(getattr(os, name)))


def main(backup: Path, data_dir: Path, folder: Path) -> int:
    for step in itertools.count(1):
        here = folder / str(step)
        shutil.copytree(data_dir, here)
        child = os.fork()
        if child == 0:
            die_at(step)
            restore(backup, here)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return step
        assert code == KILLED, (step, code)
    raise AssertionError


if __name__ == "__main__":
    sys.stdout.write(f"{main(*map(Path, sys.argv[1:]))}\n")
