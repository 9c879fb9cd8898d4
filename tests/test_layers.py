"""The house's structure: imports point downwards, names say what things are, functions and files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
MODULES = sorted((HOUSE / "iarproxy").rglob("*.py"))
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
LONGEST_FUNCTION = 60
LONGEST_FILE = 400  # 300 asks for a split; a quarter more is not argued about


def _functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_imports_point_downwards() -> None:
    """The contracts of pyproject.toml hold: rooms, no I/O in values, one room that dials, one that speaks SQL."""
    command = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([command, "--no-cache"], cwd=HOUSE, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_module(module: Path) -> None:
    """A module has a name that says something, opens with its rules, and neither it nor its functions are too long."""
    text = module.read_text()
    tree = ast.parse(text)
    assert module.stem not in VAGUE
    assert ast.get_docstring(tree), "a module opens with a docstring that gives its rules"
    assert len(text.splitlines()) <= LONGEST_FILE
    assert [f"{each.name}: {_lines(each)} lines" for each in _functions(tree) if _lines(each) > LONGEST_FUNCTION] == []
