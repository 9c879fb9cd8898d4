"""Design invariant 11: no data is ever read in a way that could run it (threats T07, T83, T86)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
MODULES = sorted((HOUSE / "iarproxy").rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "tarfile", "zipfile"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {"extractall", "unpack_archive", "unsafe_load", "full_load"}
YAML_READER = HOUSE / "iarproxy" / "oci" / "yaml_text.py"
# Events and nothing that makes values of them; of the loaders the safe one, in C and in Python.
OF_YAML = {"parse", "CSafeLoader", "SafeLoader", "__with_libyaml__", "YAMLError", "MarkedYAMLError"}


def _offences(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name.partition(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(name)) if name.partition(".")[0] in FORBIDDEN_MODULES:
                yield name
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield name
            case ast.Attribute(attr=name) if name in FORBIDDEN_METHODS:
                yield name
            case _:
                pass


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_module(module: Path) -> None:
    """No module unpickles, evaluates, loads YAML or extracts an archive; one reads YAML's events."""
    allowed = ["yaml"] if module == YAML_READER else []
    assert list(_offences(ast.parse(module.read_text()))) == allowed


def _of_yaml(tree: ast.AST) -> set[str]:
    """What is taken from `yaml`."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "yaml"}


def test_the_reader_of_yaml_takes_events_only() -> None:
    """It uses the events and the safe loader, and nothing that constructs."""
    used = {name for name in _of_yaml(ast.parse(YAML_READER.read_text())) if not name.endswith("Event")}
    assert used == OF_YAML
    assert _of_yaml(ast.parse("yaml.load(x, Loader=yaml.Loader)")) - OF_YAML == {"load", "Loader"}


@pytest.mark.parametrize("code", ["import pickle", "from marshal import loads", "eval('1')", "x.extractall()"])
def test_the_check_itself(code: str) -> None:
    """Each kind of offence is seen."""
    assert len(list(_offences(ast.parse(code)))) == 1


def test_diskcache_never_pickles() -> None:
    """A `diskcache` is opened only with a disk of our own that stores bytes: its default one unpickles."""
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"diskcache.Cache", "Cache", "FanoutCache"}:
                assert "disk" in {each.arg for each in node.keywords}, f"{module.name}:{node.lineno}"
