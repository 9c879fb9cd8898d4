"""Joining our part with a file of others: JSON by value, TOML by text that is parsed again.

Rule 1: what others wrote stays: the result is compared with what it must mean before anybody gets it.
Rule 2: where that cannot be had, the file is refused and the person told what to write by hand.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iarproxy.errors import Refused


def read_json(data: bytes | None, path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; an empty or missing file is an empty one.

    Raises:
        Refused: it holds something else, or a key twice.
    """
    if data is None or not data.strip():
        return {}
    try:
        read = json.loads(data, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not JSON that can be merged ({error}); mend it first") from error
    if not isinstance(read, dict):
        raise Refused(f"{path}: holds no JSON object; mend it first")
    return read


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a key stands there twice")
    return read


def with_first(data: bytes | None, path: Path, wanted: Mapping[str, str]) -> bytes:
    """The JSON file with each wanted text in the list of its key, in front; everything else as it was.

    Raises:
        Refused: as `read_json`, or such a key holds no list.
    """
    document = read_json(data, path)
    for key, text in wanted.items():
        present = document.get(key, [])
        if not isinstance(present, list):
            raise Refused(f"{path}: {key} is no list; mend it first")
        document[key] = [text, *(each for each in present if each != text)]
    if data is not None and data.strip() and document == read_json(data, path):
        return data
    return (json.dumps(document, indent=_indent(data or b"")) + "\n").encode()


def _indent(data: bytes) -> int | str:
    found = re.search(rb"\n([ \t]+)\"", data)
    return found[1].decode() if found else 2


def read_toml(data: bytes | None, path: Path) -> dict[str, Any]:
    """What a TOML file says; a missing file says nothing.

    Raises:
        Refused: it is no TOML.
    """
    try:
        return tomllib.loads((data or b"").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"{path}: not TOML ({error}); mend it first") from error


def with_tables(data: bytes | None, path: Path, block: str) -> bytes:
    """The TOML file with the tables of `block` at its end, or as it is where it says all of that already.

    Raises:
        Refused: the file is no TOML, or has one of these tables already, with something else in it.
    """
    present, ours = read_toml(data, path), tomllib.loads(block)
    wanted = _joined(present, ours)
    if wanted == present and data is not None:
        return data
    before = (data or b"").rstrip(b"\n")
    result = (before + b"\n\n" if before else b"") + block.encode()
    if _means(result) != wanted:
        raise Refused(f"{path}: has some of these tables already; write this into it by hand:\n{block}")
    return result


def with_value(data: bytes | None, path: Path, table: tuple[str, ...], key: str, value: str) -> bytes:
    """The TOML file with one more value: below the table's heading, or with such a table at the end.

    Raises:
        Refused: the file is no TOML, or has another value there, or spells the table in a way that takes none.
    """
    ours: Any = {key: value}
    for name in reversed(table):
        ours = {name: ours}
    present = read_toml(data, path)
    wanted = _joined(present, ours)
    if wanted == present:
        return data or b""
    heading = "[" + ".".join(_key(name) for name in table) + "]"
    line = f"{key} = {json.dumps(value)}"
    lines = (data or b"").decode().splitlines(keepends=True)
    for number, text in enumerate(lines):
        if text.lstrip().startswith("[") and _means(text.encode()) == _nested(table):
            indent = text[: len(text) - len(text.lstrip())] + "  "
            end = "" if text.endswith("\n") else "\n"
            result = "".join([*lines[: number + 1], f"{end}{indent}{line}\n", *lines[number + 1 :]]).encode()
            if _means(result) == wanted:
                return result
    return with_tables(data, path, f"{heading}\n  {line}\n")


def _nested(table: tuple[str, ...]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name in reversed(table):
        nested = {name: nested}
    return nested


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else json.dumps(name)


def _means(data: bytes) -> dict[str, Any] | None:
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return None


def _joined(present: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """`present` with `ours` over it, table by table."""
    joined = dict(present)
    for key, value in ours.items():
        before = joined.get(key)
        joined[key] = _joined(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return joined
