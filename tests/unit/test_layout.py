"""The tree keeps to its own rules: sizes, openings, names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "gpud").rglob("*.py"))
MODULE_LINES_MAX = 400
ONE_FILE = {ROOT / "gpud/sdk/gpud_worker.py": 825}
"""What images copy in is one file, however long."""
FUNCTION_LINES_MAX = 50
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_stays_below_its_ceiling_and_says_what_it_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= ONE_FILE.get(path, MODULE_LINES_MAX), "the design is asking for a split"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with a sentence that says what it answers or does"
    assert path.stem not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_function_stays_below_its_ceiling(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node) and len(node.body) > 1
            body_starts = node.body[1].lineno if has_docstring else node.lineno
            assert (node.end_lineno or 0) - body_starts < FUNCTION_LINES_MAX, f"{node.name} is too long"


def test_package_files_hold_a_docstring_only() -> None:
    for path in MODULES:
        if path.name == "__init__.py" and path.parent.name != "gpud":
            assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1, path
