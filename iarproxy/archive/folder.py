"""The folders of a bundle, as they lie on media: its documents, and which of the files may be its volumes.

Rule 1: nothing is written, no link is followed, and nothing but regular files is opened.
Rule 2: what is read whole has a bound, and so has the number of files.
Rule 3: a volume is found by what it says of itself, whatever its file is called; what it says is believed by nobody
        (`checking` compares). A file that is called like a volume, and is none, is told apart from one that is lost.
Rule 4: files are opened once, here: whoever opens a folder as root may give root up before they are read.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeAlias

from iarproxy.archive.staging import INCOMPLETE, JOURNAL, MANIFEST
from iarproxy.errors import BundleRefused
from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import MAX_BUNDLE
from iarproxy.oci.volumes import BLOCK, marked_in
from iarproxy.trust.bundles import MAX_SIGNATURE, MAX_SIGNATURES
from iarproxy.trust.rotations import MAX_ROTATION, MAX_ROTATIONS

MAX_JOURNAL: Final = 256 * 2**20  # bytes of journal.json
_MOST_FILES: Final = 20_000  # in a folder
_SIGNED: Final = ".sigstore.json"
_SPARE: Final = 200  # descriptors for everything else
_SHOWN: Final = 160  # characters of a path
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

Mark: TypeAlias = tuple[Digest, int, int]  # bundle, number, how many volumes


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file that is, or should be, a volume.

    Attributes:
        name: its file name. path: for people.
        fd: to read it by; -1: it is no regular file, or cannot be opened, and `why` says so.
        size: in bytes.
        mark: what it says of itself; None: nothing.
    """

    name: str
    path: str
    fd: int
    size: int = 0
    mark: Mark | None = None
    why: str = ""


@dataclass(slots=True)
class BundleFolder:
    """The open folders of one bundle. A context manager; closing it closes all files.

    Attributes:
        manifest: the bytes of `bundle.json`. journal: of `journal.json`; None: there is none.
        signatures, rotations: unverified, in the order of their names. where: path of each, for people.
        files: what says that it is a volume, of whichever bundle, or is called like one; by path.
        strangers: paths of all other files.
    """

    folders: tuple[str, ...]
    manifest: bytes
    journal: bytes | None = None
    signatures: tuple[bytes, ...] = ()
    rotations: tuple[bytes, ...] = ()
    files: tuple[VolumeFile, ...] = ()
    strangers: tuple[str, ...] = ()
    where: Mapping[bytes, str] = field(default_factory=dict)
    _opened: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def open(cls, paths: Sequence[Path]) -> Self:
        """The bundle whose parts lie in these folders; each may be one medium of several.

        Raises:
            BundleRefused: `malformed`: there is no bundle, or two; names what and where.
        """
        with ExitStack() as opened:
            found = _Found(opened)
            for path in paths:
                with _Folder.open(path) as folder:
                    for name in folder.names():
                        found.take(folder, name)
            if found.manifest is None:
                raise _without_manifest(paths)
            return cls(
                tuple(map(shown, paths)),
                found.manifest,
                found.journal,
                found.signatures,
                found.rotations,
                tuple(found.files),
                tuple(found.strangers),
                found.where,
                opened.pop_all(),
            )

    def close(self) -> None:
        """Close all files."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Found:
    """What was found in the folders so far."""

    opened: ExitStack
    manifest: bytes | None = None
    journal: bytes | None = None
    signatures: tuple[bytes, ...] = ()
    rotations: tuple[bytes, ...] = ()
    files: list[VolumeFile] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    where: dict[bytes, str] = field(default_factory=dict)

    def take(self, folder: _Folder, name: str) -> None:
        """Read a document, or see whether it is a volume."""
        if name == MANIFEST:
            self.manifest = _same(self.manifest, folder.document(name, MAX_BUNDLE), folder.path(name))
        elif name == JOURNAL:
            self.journal = _same(self.journal, folder.document(name, MAX_JOURNAL), folder.path(name))
        elif name.startswith("bundle.") and name.endswith(_SIGNED):
            self.signatures = _added(self.signatures, self._signed(folder, name, MAX_SIGNATURE), MAX_SIGNATURES)
        elif name.startswith("rotation.") and name.endswith(_SIGNED):
            self.rotations = _added(self.rotations, self._signed(folder, name, MAX_ROTATION), MAX_ROTATIONS)
        else:
            self._take_file(folder, name)

    def _signed(self, folder: _Folder, name: str, limit: int) -> bytes:
        raw = folder.document(name, limit)
        self.where.setdefault(raw, folder.path(name))
        return raw

    def _take_file(self, folder: _Folder, name: str) -> None:
        path, named = folder.path(name), _is_called_volume(name)
        try:
            fd = folder.file(name)
        except OSError as error:
            why = "is no regular file" if error.errno in _IRREGULAR else f"cannot be read: {error.strerror}"
            if named:
                self.files.append(VolumeFile(name, path, -1, why=why))
            else:
                self.strangers.append(path)
            return
        mark = _marked(fd)
        if mark is None and not named:
            os.close(fd)
            self.strangers.append(path)
            return
        self.opened.callback(os.close, fd)
        self.files.append(VolumeFile(name, path, fd, os.fstat(fd).st_size, mark))
        _make_room(len(self.files))


_IRREGULAR: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class _Folder:
    """An open folder. A context manager."""

    where: Path
    fd: int

    @classmethod
    def open(cls, where: Path) -> Self:
        try:
            return cls(where, os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise BundleRefused(
                "malformed", f"{shown(where)} cannot be opened as a folder: {error.strerror}; name the bundle's folder"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def path(self, name: str) -> str:
        """Where a file is, for people."""
        return shown(self.where / name)

    def names(self) -> list[str]:
        """What is in it, but for folders, in order."""
        found: list[str] = []
        with os.scandir(self.fd) as entries:
            for entry in entries:
                if (
                    entry.is_dir(follow_symlinks=False)
                    and not _is_called_volume(entry.name)
                    and not entry.name.endswith(".json")
                ):
                    continue
                found.append(entry.name)
                if len(found) > _MOST_FILES:
                    raise BundleRefused(
                        "malformed", f"{shown(self.where)} holds over {_MOST_FILES} files; name the bundle's own folder"
                    )
        signed = sum(name.endswith(_SIGNED) for name in found)
        if signed > MAX_SIGNATURES + MAX_ROTATIONS:
            raise BundleRefused("malformed", f"{shown(self.where)} holds {signed} signatures and rotations: too many")
        return sorted(found)

    def file(self, name: str) -> int:
        """A descriptor of a regular file (rule 1).

        Raises:
            OSError: it is none, or cannot be opened.
        """
        if not stat.S_ISREG(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        fd = os.open(name, _FLAGS, dir_fd=self.fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "no regular file")
        return fd

    def document(self, name: str, limit: int) -> bytes:
        """All of a file that has at most `limit` bytes."""
        try:
            with os.fdopen(self.file(name), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise BundleRefused("malformed", f"{self.path(name)} has {size} bytes; at most {limit} are read")
                return b"".join(_chunks(file.fileno(), limit))
        except OSError as error:
            raise BundleRefused("malformed", f"{self.path(name)} cannot be read: {error.strerror}") from error


def shown(path: Path | str) -> str:
    """A path for people: one line, whatever it is called."""
    text = os.fsencode(path).decode("utf-8", "replace")
    plain = "".join(each if each.isprintable() else "?" for each in text)
    return plain if len(plain) <= _SHOWN else f"...{plain[3 - _SHOWN :]}"


def _chunks(fd: int, limit: int) -> Iterator[bytes]:
    """What a file holds, however it grows meanwhile."""
    while limit > 0 and (data := os.read(fd, min(limit, 2**20))):
        yield data
        limit -= len(data)


def _is_called_volume(name: str) -> bool:
    return name.startswith("volume-") and name.endswith(".tar")


def _marked(fd: int) -> Mark | None:
    try:
        return marked_in(os.pread(fd, 2 * BLOCK, 0))
    except OSError:
        return None


def _same(known: bytes | None, found: bytes, path: str) -> bytes:
    if known not in (None, found):
        raise BundleRefused("malformed", f"{path} differs from the one in another folder: these are two bundles")
    return found


def _added(known: tuple[bytes, ...], found: bytes, most: int) -> tuple[bytes, ...]:
    if found in known:
        return known
    if len(known) == most:
        raise BundleRefused("malformed", f"the bundle has over {most} signatures, or rotations of keys")
    return (*known, found)


def _without_manifest(paths: Iterable[Path]) -> BundleRefused:
    where = ", ".join(map(shown, paths)) or "no folder"
    if any((path / INCOMPLETE).is_dir() for path in paths):
        return BundleRefused("malformed", f"{where} holds a bundle whose create was not finished; create it again")
    return BundleRefused("malformed", f"{where} holds no {MANIFEST}; name the folder that `bundle create` made")


def _make_room(files: int) -> None:
    """Allow for as many descriptors, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files + _SPARE > soft:
        with suppress(ValueError, OSError):
            wanted = soft * 2 if hard == resource.RLIM_INFINITY else min(soft * 2, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
