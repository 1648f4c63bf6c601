"""Puts the shim that holds parked workers into the wheel, compiled for the machine that builds it.

Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIM = ROOT / "gpud" / "shim" / f"gpud-shim-{platform.machine()}"


class BuildWithShim(build_py):
    """Compiles the shim first, so that it is among the package's files."""

    def run(self) -> None:
        """Build; without a C compiler the package is whole but for parked workers, and gpud says so."""
        try:
            subprocess.run([ROOT / "scripts" / "build-shim"], check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"warning: built without the shim: {error}", file=sys.stderr)
        super().run()


class WheelForThisMachine(bdist_wheel):
    """Says which machines the shim runs on: any Linux of this architecture, because it is static."""

    def get_tag(self) -> tuple[str, str, str]:
        """A wheel without the shim runs anywhere."""
        return "py3", "none", f"manylinux_2_17_{platform.machine()}" if SHIM.is_file() else "any"


setup(cmdclass={"build_py": BuildWithShim, "bdist_wheel": WheelForThisMachine})
