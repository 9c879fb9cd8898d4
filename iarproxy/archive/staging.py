"""The folder that a bundle is written to, and how it comes to look like one.

Rule 1: everything is written in `incomplete`, a folder within the target, and moves out of it only when all of it is
        durable; `bundle.json` moves last. What a killed or failed create leaves has none, and is taken for no bundle.
        So the target may be a medium itself, or a folder that somebody made in a place where we may make none.
Rule 2: a target that holds anything is refused, but for what a create left there that nobody writes on any more.
Rule 3: names are never overwritten, links never followed. Modes and times are the same whoever writes, with whichever
        umask; a file system that keeps none (FAT) keeps none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from iarproxy.errors import Refused
from iarproxy.store import Disk

MANIFEST = "bundle.json"
JOURNAL = "journal.json"
INCOMPLETE = "incomplete"
_OURS = ("volume-*.tar", "*.sigstore.json", MANIFEST, JOURNAL)
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_WHEN = 315_532_800 * 10**9  # ns: 1980-01-01, the first moment that every file system can keep
_MADE_BY_THE_DISK = frozenset({"lost+found"})
_SAID = {
    errno.ENOSPC: "the disk is full; free some space, or name another -o",
    errno.EDQUOT: "your quota is used up; free some space, or name another -o",
    errno.EFBIG: "the file system holds no file as large as a volume; choose a smaller --volume-size",
    errno.EACCES: "no permission to write there; name another -o, or let the store's owner write there",
    errno.EPERM: "no permission to write there; name another -o, or let the store's owner write there",
    errno.EROFS: "the file system is read-only; name another -o",
}


def volume_name(number: int) -> str:
    """What a volume's file is called."""
    return f"volume-{number:03}.tar"


@dataclass(frozen=True, slots=True)
class Staging:
    """A bundle that is being written. `folder`: where its files are until `publish`."""

    target: Path
    folder: Path
    disk: Disk

    @contextmanager
    def file(self, name: str) -> Iterator[int]:
        """A descriptor to write the new file `name` by; durable at the end.

        Raises:
            Refused: the disk does not take it.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with translated(self.target):
            fd = os.open(self.folder / name, flags, _FILE_MODE)
            try:
                yield fd
                with suppress(OSError):  # rule 3
                    os.fchmod(fd, _FILE_MODE)
                    os.utime(fd, ns=(_WHEN, _WHEN))
                self.disk.fsync(fd)
            finally:
                os.close(fd)

    def write(self, name: str, data: bytes) -> None:
        """Write the small file `name`; durable on return. Raises as `file`."""
        with self.file(name) as fd:
            write_all(self.disk, fd, memoryview(data))

    def insist_on_room(self, size: int) -> None:
        """See that the disk has so many bytes left.

        Raises:
            Refused: it has not.
        """
        with translated(self.target):
            free, _ = self.disk.room(str(self.folder))
        if free < size:
            raise Refused(f"{self.target}: {size} bytes are needed and {free} are free; free some, or name another -o")

    def publish(self) -> None:
        """Let the bundle be one (rule 1).

        Raises:
            Refused: the disk does not take it.
        """
        moved: list[Path] = []
        try:
            with translated(self.target):
                self._move(moved)
        except BaseException:
            for each in reversed(moved):  # bundle.json is the first to go, as it was the last to come
                with suppress(OSError):
                    each.unlink()
            raise

    def _move(self, moved: list[Path]) -> None:
        _sync(self.disk, self.folder)
        for file in sorted(self.folder.iterdir(), key=lambda each: (each.name == MANIFEST, each.name)):
            final = self.target / file.name
            if os.path.lexists(final):
                raise Refused(f"{final} came while the bundle was made; name a new folder")
            if file.name == MANIFEST:
                _sync(self.disk, self.target)
            file.rename(final)
            moved.append(final)
        self.folder.rmdir()
        _sync(self.disk, self.target)


@contextmanager
def staging(target: Path, disk: Disk) -> Iterator[Staging]:
    """A bundle to be written to the new or empty folder `target`; gone again, unless it is published.

    Raises:
        Refused: there is something in the folder, or it cannot be written to.
    """
    target = target.absolute()
    made = begin(target)
    try:
        with translated(target):
            folder = _claimed(target)
        lock = _locked(folder)
        try:
            yield Staging(target, folder, disk)
        finally:
            os.close(lock)
            with suppress(OSError):
                _clear(folder)
    finally:
        if made:
            with suppress(OSError):  # it holds the bundle
                target.rmdir()


def begin(target: Path) -> bool:
    """Make the folder `target` unless it is there; whether it was made.

    Raises:
        Refused: it is no folder, or cannot be made.
    """
    with translated(target):
        try:
            target.mkdir()
        except FileExistsError:
            if not target.is_dir():
                raise Refused(f"{target} is no folder; name a new one") from None
            return False
        except FileNotFoundError:
            raise Refused(f"{target.parent} does not exist; make it first") from None
        target.chmod(_FOLDER_MODE)
        return True


@contextmanager
def translated(target: Path) -> Iterator[None]:
    """Let what the disk of `target` says be understood by who named it."""
    try:
        yield
    except OSError as error:
        said = _SAID.get(error.errno or 0, f"{error.strerror or error}; look at the medium and the system log")
        raise Refused(f"{target} cannot be written: {said}") from error


def write_all(disk: Disk, fd: int, data: memoryview) -> None:
    """Write all of `data`; a short write is continued."""
    while data:
        data = data[disk.write(fd, data) :]


def _claimed(target: Path) -> Path:
    """A new folder for the files, in the place of one that was left (rule 2)."""
    folder = target / INCOMPLETE
    if INCOMPLETE in _names(target):
        lock = _locked(folder)
        try:
            _clear_left(target)
        except OSError as error:
            raise Refused(f"{folder} holds what no create left there; name a new folder") from error
        finally:
            os.close(lock)
    if _names(target):
        raise Refused(f"{target} is not empty; name a new folder")
    folder.mkdir(mode=_FOLDER_MODE)
    return folder


def _names(target: Path) -> set[str]:
    return {each.name for each in target.iterdir()} - _MADE_BY_THE_DISK


def _clear_left(target: Path) -> None:
    """Remove what a killed create left; some of it may have moved, but `bundle.json` had not, so it is no bundle."""
    moved = _names(target) - {INCOMPLETE}
    half = MANIFEST not in moved and (target / INCOMPLETE / MANIFEST).exists() and all(map(_is_ours, moved))
    if half or not moved:
        for each in moved:
            (target / each).unlink()
        _clear(target / INCOMPLETE)


def _is_ours(name: str) -> bool:
    return any(fnmatch(name, known) for known in _OURS)


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder; the kernel lets go of it with the process."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Refused(f"another create writes to {folder.parent}; name another folder, or wait for it") from None
    except OSError:
        return fd  # a file system without locks: two who write there find each other's files, and end
    return fd


def _clear(folder: Path) -> None:
    """Remove what a create wrote, and the folder."""
    for each in list(folder.iterdir()):
        if stat.S_ISREG(each.lstat().st_mode) and _is_ours(each.name):
            each.unlink()
    folder.rmdir()


def _sync(disk: Disk, folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.fsync(fd)
    finally:
        os.close(fd)
