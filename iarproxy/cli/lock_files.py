"""Lock files and manifest trees on disk: what is read, and how a lock is written.

Rule 1: a file is written beside its place and renamed into it: whoever reads it sees the old one or the new one.
Rule 2: only a lock of the same kind, or an empty file, is replaced: a mistyped name must not cost anybody a file.
Rule 3: `-` is standard input or output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from iarproxy.cli import person_files
from iarproxy.errors import Malformed, Refused
from iarproxy.oci.lock import LockFormat
from iarproxy.oci.lock_reading import format_of, read_lock
from iarproxy.oci.yaml_text import MAX_TEXT, text_of

STANDARD = "-"
_SPLIT = "; split it"
_MANIFESTS = (".yaml", ".yml", ".json")
_MAX_FILES = 20_000  # of a tree
_MAX_BYTES = 8 * MAX_TEXT  # of a tree


def read(file: str) -> bytes:
    """The bytes of a file, or of standard input.

    Raises:
        Refused: it cannot be read, or is larger than anything that is read.
    """
    if file != STANDARD:
        return person_files.read(Path(file), MAX_TEXT, _SPLIT)
    try:
        data = sys.stdin.buffer.read(MAX_TEXT + 1)
    except OSError as error:
        raise Refused(f"{file}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_TEXT:
        raise Refused(f"{file}: more than {MAX_TEXT} bytes{_SPLIT}")
    return data


def shown(file: str) -> str:
    """What a file is called in messages and in the journal."""
    return "standard input" if file == STANDARD else file


def tree(file: str) -> Iterator[tuple[str, bytes]]:
    """A file, or the manifests in a folder and below it, by name.

    Raises:
        Refused: one cannot be read, or there are too many, or none.
    """
    if file == STANDARD or not Path(file).is_dir():
        yield shown(file), read(file)
        return
    found = sorted(each for each in Path(file).rglob("*") if each.suffix.lower() in _MANIFESTS and each.is_file())
    if not found:
        raise Refused(f"{file}: no manifests ({', '.join(_MANIFESTS)}) in this folder or below it; name another one")
    if len(found) > _MAX_FILES:
        raise Refused(f"{file}: {len(found)} manifests; at most {_MAX_FILES} are read, name a smaller folder")
    size = 0
    for each in found:
        data = read(str(each))
        size += len(data)
        if size > _MAX_BYTES:
            raise Refused(f"{file}: more than {_MAX_BYTES} bytes of manifests; name a smaller folder")
        yield str(each), data


def write(file: str, data: bytes, kind: LockFormat) -> None:
    """Write a lock.

    Raises:
        Refused: the file holds something else, or cannot be written.
    """
    if file == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    path = Path(os.path.realpath(file))
    mode = _replaceable(path, file, kind)
    try:
        replace(path, data, mode)
    except OSError as error:
        raise Refused(f"{file}: cannot be written: {error.strerror}") from error


def _replaceable(path: Path, file: str, kind: LockFormat) -> int | None:
    """The mode of the file that is there and may be replaced; None: there is none."""
    if not path.exists():
        return None
    if not path.is_file():
        raise Refused(f"{file}: is no ordinary file; name another one, or - for standard output")
    before = read(str(path))
    if before and not _is(kind, before):
        raise Refused(f"{file}: holds something else than a lock of the kind {kind}; name another one, or remove it")
    return path.stat().st_mode & 0o777


def _is(kind: LockFormat, data: bytes) -> bool:
    try:
        text = text_of(data)
        if kind is not LockFormat.LIST:
            return format_of(text) is kind
        lines = [line for line in text.splitlines() if line.strip()]
        return len(read_lock(data, "", LockFormat.LIST).entries) == len(lines)
    except Malformed:
        return False


def replace(path: Path, data: bytes, mode: int | None) -> None:
    """Put a file with these bytes into its place, with this mode, or leave what is there (rule 1)."""
    beside = path.with_name(f".{path.name[:200]}.{os.getpid()}.new")
    try:
        with beside.open("xb") as opened:
            if mode is not None:
                os.fchmod(opened.fileno(), mode)
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            beside.unlink()
        raise
