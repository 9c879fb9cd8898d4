"""Writing a plan, and taking it back.

Rule 1: before the first change of a file, its bytes are kept beside it (`NAME.before-iarproxy`) with mode and owner,
        and a record (`.NAME.iarproxy`) says what was there and what we wrote; then the file is replaced, in one step.
Rule 2: a file that others wrote is replaced only when asked for; one edited since is neither written nor undone.
Rule 3: a link stays a link: what it points to is written.
Rule 4: nothing is written unless all of the plan can be; what then fails on the disk leaves no empty folder behind,
        which clients would find in front of `_default`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from iarproxy.cli.setup.plan import MARK, Change, Merged, Whole
from iarproxy.cli.setup.reading import read
from iarproxy.errors import Refused

_NEW_FILE = 0o644


class Standing(StrEnum):
    """How a file stands to the plan, or what was done about it."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "nothing to do"
    FOREIGN = "written by others"
    EDITED = "edited since"
    RESTORED = "restored"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class _Record:
    """What the file beside a written one says; digests are sha256 in hex, `before` None: there was no file.

    `after`: what we wrote last, and what stood there until then, should the last step have been cut off.
    `folders`: how many folders above the file are ours.
    """

    before: str | None
    after: tuple[str, ...]
    folders: int


@dataclass(frozen=True, slots=True)
class Step:
    """One file of a plan. `content`: what shall be there."""

    path: Path
    standing: Standing
    content: bytes
    _real: Path
    _record: _Record
    _base: bytes | None


def look(change: Change, *, overwrite: bool = False) -> Step:
    """How a change stands to what is there; nothing is written.

    Raises:
        Refused: the file cannot be read, or not merged.
    """
    real = _real(change.path)
    current, record = _read(real), _recorded(real)
    base, standing = current, Standing.NEW if current is None else Standing.CHANGED
    if record is not None and _hash(current) in record.after and _hash(_kept(real, record)) == record.before:
        base = _kept(real, record)
    elif record is not None and _hash(current) == record.before:
        record = None
    elif record is not None:
        standing, record = Standing.EDITED, None
    elif isinstance(change, Whole) and current is not None and not current.startswith(MARK.encode()):
        standing = Standing.FOREIGN
    content = _content(change, base)
    if current == content:
        standing = Standing.SAME
    elif overwrite and current is not None:
        standing = Standing.CHANGED
    after = tuple(each for each in (_hash(current), _hash(content)) if each)
    kept = _Record(record.before, after, record.folders) if record else _Record(_hash(base), after, _missing(real))
    return Step(change.path, standing, content, real, kept, base)


def _content(change: Change, base: bytes | None) -> bytes:
    match change:
        case Whole():
            return change.content
        case Merged():
            return change.merge(base)
        case _:
            assert_never(change)


def write(changes: Iterable[Change], *, overwrite: bool = False) -> list[Step]:
    """Write what is not there yet; how each file stood before.

    Raises:
        Refused: one of them cannot be written or merged, or is not ours to write; nothing was written then.
    """
    steps = [look(each, overwrite=overwrite) for each in changes]
    for step in steps:
        if step.standing in (Standing.FOREIGN, Standing.EDITED):
            whose = "others wrote it" if step.standing is Standing.FOREIGN else "it was edited since we wrote it"
            raise Refused(
                f"{step.path}: {whose}; nothing was written. Move it away, or take it over with --overwrite"
                " (it is kept beside it, and --undo brings it back)"
            )
    for step in steps:
        if step.standing is not Standing.SAME:
            with _told(step.path):
                _write(step)
    return steps


def _write(step: Step) -> None:
    real = step._real  # noqa: SLF001  # its own module
    made = [each for each in real.parents if not each.exists()]
    try:
        real.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _replace_all(step, real)
    except BaseException:
        _leave_nothing(real, made)
        raise


def _leave_nothing(real: Path, made: Iterable[Path]) -> None:
    """Remove folders that were made for a file that was not written: an empty one is found before `_default`."""
    if real.exists():
        return
    with suppress(OSError):
        _record_of(real).unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


def _replace_all(step: Step, real: Path) -> None:
    record = step._record  # noqa: SLF001  # its own module
    if step._base is not None and _hash(_read(_backup(real))) != record.before:  # noqa: SLF001  # as above
        _replace(_backup(real), step._base, like=real)  # noqa: SLF001  # as above
    told = {"iarproxy": 1, "before": record.before, "after": record.after, "folders": record.folders}
    _replace(_record_of(real), json.dumps(told).encode())
    _replace(real, step.content, like=real)


def undo(places: Iterable[str]) -> list[tuple[Path, Standing]]:
    """Bring back what was there before, for each file that a pattern of `places` finds and that we wrote.

    Raises:
        Refused: a file cannot be read or written.
    """
    done: list[tuple[Path, Standing]] = []
    folders: set[Path] = set()
    for path in sorted(_candidates(places)):
        record = _recorded(path)
        if record is not None:
            with _told(path):
                done.append((path, _undo(path, record)))
            if done[-1][1] is not Standing.EDITED:
                folders |= set(path.parents[: record.folders])
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        with suppress(OSError):  # somebody put something into it
            folder.rmdir()
    return done


def _candidates(places: Iterable[str]) -> set[Path]:
    """The real path of each file that matches, or has only its record left."""
    found = set()
    for place in places:
        folder, name = os.path.split(place)
        found |= {_real(Path(each)) for each in glob.glob(place)}  # noqa: PTH207  # Path.glob knows no `..`
        for each in glob.glob(os.path.join(folder, f".{name}.iarproxy")):  # noqa: PTH118, PTH207  # as above
            record = Path(each)
            found.add(_real(record.with_name(record.name.removeprefix(".").removesuffix(".iarproxy"))))
    return found


def _undo(path: Path, record: _Record) -> Standing:
    current = _hash(_read(path))
    if current not in (*record.after, record.before):
        return Standing.EDITED
    if record.before is None:
        path.unlink(missing_ok=True)
    elif current != record.before:
        if _hash(_read(_backup(path))) != record.before:
            raise Refused(f"{_backup(path)}: is not what was kept there; nothing was undone")
        _backup(path).replace(path)
    _record_of(path).unlink()
    _backup(path).unlink(missing_ok=True)
    return Standing.REMOVED if record.before is None else Standing.RESTORED


def backup_of(path: Path) -> Path | None:
    """Where the bytes are that a file had before us; None: it had none."""
    kept = _backup(_real(path))
    return kept if kept.exists() else None


def _kept(path: Path, record: _Record) -> bytes | None:
    return _read(_backup(path)) if record.before else None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _backup(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-iarproxy")


def _record_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.iarproxy")


def _missing(path: Path) -> int:
    """How many of the folders above are not there yet."""
    return sum(not each.exists() for each in path.parents)


def _read(path: Path) -> bytes | None:
    with _told(path):
        try:
            return read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _recorded(path: Path) -> _Record | None:
    data = _read(_record_of(path))
    if data is None:
        return None
    try:
        read = json.loads(data)
        before, after, folders = read["before"], read["after"], read["folders"]
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"{_record_of(path)}: unreadable; remove it once {path} is as it shall be") from error
    if not (isinstance(before, str | None) and _is_texts(after) and isinstance(folders, int)):
        raise Refused(f"{_record_of(path)}: unreadable; remove it once {path} is as it shall be")
    return _Record(before, tuple(after), folders)


def _is_texts(value: object) -> bool:
    return isinstance(value, Sequence) and all(isinstance(each, str) for each in value)


def _hash(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _replace(path: Path, data: bytes, *, like: Path | None = None) -> None:
    """Put `data` at `path` in one step, durably, with the mode and owner of `like` where that exists."""
    handle, name = tempfile.mkstemp(prefix=".iarproxy-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, _NEW_FILE)
            with suppress(FileNotFoundError):
                status = os.stat(like) if like else None  # noqa: PTH116  # None stays None
                if status is not None:
                    with suppress(PermissionError):  # only root gives files away
                        os.fchown(handle, status.st_uid, status.st_gid)
                    os.fchmod(handle, status.st_mode & 0o7777)
            os.fsync(handle)
        os.replace(name, path)  # noqa: PTH105  # a name, not a path
    except BaseException:
        os.unlink(name)  # noqa: PTH108  # as above
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Foreign failures as one line."""
    try:
        yield
    except OSError as error:
        remedy = "run as root, or name another folder with --root" if isinstance(error, PermissionError) else "mend it"
        raise Refused(f"{path}: {error.strerror}; {remedy}") from error
