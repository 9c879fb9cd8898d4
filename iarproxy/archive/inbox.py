"""What lies in a watched folder: the bundles whose parts arrived there, and how far each is.

Rule 1: nothing is written, no link is followed, nothing but regular files is opened, and what is looked at is bounded.
Rule 2: parts belong together by the identity of the bundle, in whichever folders they lie: the folder itself, and those
        in it. What a volume says of itself, and an unverified signature, serve to find and to order; applying judges.
Rule 3: a file may still be arriving while anything of its bundle changed in the last moments.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from iarproxy.archive.folder import BundleFolder, shown
from iarproxy.archive.staging import INCOMPLETE, MANIFEST
from iarproxy.errors import Malformed
from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import MAX_BUNDLE, BundleManifest
from iarproxy.oci.volumes import BLOCK, marked_in
from iarproxy.trust.bundle import envelope_of
from iarproxy.trust.bundles import BundleStatement, statement_in

_NOT_OURS = (INCOMPLETE, "lost+found")  # what is not written yet, and what the disk has; so for hidden ones
_MOST_FOLDERS = 1000
_MOST_FILES = 20_000  # in a folder
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class File:
    """A part of a bundle. `changed`: when anything of it last was, in seconds since 1970."""

    path: str
    size: int
    modified: int
    changed: float


@dataclass(slots=True)
class Parts:
    """The parts of a bundle. `folders`: where they lie, in order."""

    identity: Digest
    folders: list[Path] = field(default_factory=list)
    files: list[File] = field(default_factory=list)

    @property
    def snapshot(self) -> frozenset[File]:
        """All that is seen of the parts without reading them."""
        return frozenset(self.files)

    @property
    def changed(self) -> float:
        """When a part last changed, in seconds since 1970."""
        return max(each.changed for each in self.files)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder that cannot be looked into, and why."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A bundle as it lies there.

    Attributes:
        statement: what an unverified signature says; None: there is none to be read.
        lacks: without what nothing can be done with it, for people; empty: nothing.
        content: a fingerprint of what lies there.
    """

    identity: Digest
    folders: tuple[Path, ...]
    statement: BundleStatement | None
    lacks: str
    content: str


def parts(root: Path) -> tuple[list[Parts], list[Unreadable]]:
    """The bundles of which something lies in `root` or in a folder in it. Blocking."""
    found: dict[Digest, Parts] = {}
    unreadable = list[Unreadable]()
    try:
        folders = _folders(root)
        if len(folders) > _MOST_FOLDERS:
            unreadable.append(
                Unreadable(shown(root), f"holds over {_MOST_FOLDERS} folders; the last are not looked at")
            )
        folders = [root, *folders[:_MOST_FOLDERS]]
    except OSError as error:
        return [], [Unreadable(shown(root), f"cannot be read: {error.strerror}")]
    for folder in folders:
        try:
            seen = _Seen.of(folder)
        except OSError as error:
            unreadable.append(Unreadable(shown(error.filename or folder), f"cannot be read: {error.strerror}"))
            continue
        for identity in seen.identities:
            if seen.manifest not in (None, identity):  # it would be taken for the other bundle's
                unreadable.append(Unreadable(shown(folder), "holds parts of two bundles; give each a folder"))
                continue
            whole = found.setdefault(identity, Parts(identity))
            whole.folders.append(folder)
            whole.files += seen.files
    return list(found.values()), unreadable


def arrived(found: Parts) -> Arrived:
    """How far a bundle is whose parts are not changing. Blocking.

    Raises:
        BundleRefused: its parts are none of one bundle.
    """
    folders = tuple(found.folders)
    if not any((folder / MANIFEST).is_file() for folder in folders):
        return Arrived(found.identity, folders, None, f"its {MANIFEST}", _fingerprint(found, ()))
    with BundleFolder.open(folders) as folder:
        statements = sorted(_statements(folder.signatures), key=lambda each: _fits(each, folder.manifest))
        content = _fingerprint(found, (folder.manifest, *folder.signatures, *folder.rotations))
    said = statements[-1] if statements else None
    return Arrived(found.identity, folders, said, "" if statements else "a signature", content)


def _fits(said: BundleStatement, manifest: bytes) -> tuple[bool, int]:
    """What counts of several: what is about the document that lies there, and the newest; nobody shall pass for old."""
    return said.manifest == Digest.of(manifest), said.sequence


def _statements(signatures: Iterable[bytes]) -> Iterator[BundleStatement]:
    for each in signatures:
        with suppress(Malformed):
            yield statement_in(envelope_of(each).payload)


def _fingerprint(found: Parts, documents: Iterable[bytes]) -> str:
    """Of documents their bytes count; of volumes, which nobody reads for this, what the file system says of them."""
    told = sorted(f"{each.path} {each.size} {each.modified}" for each in found.files)
    hashes = sorted(hashlib.sha256(each).hexdigest() for each in documents)
    return hashlib.sha256("\n".join([str(found.identity), *hashes, *told]).encode()).hexdigest()


@dataclass(slots=True)
class _Seen:
    """What lies in one folder. `manifest`: the identity of the bundle whose document it is; None: there is none."""

    manifest: Digest | None = None
    identities: dict[Digest, None] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> _Seen:
        found = cls()
        for name in _names(folder):
            path = folder / name
            fd = _opened(path)
            if fd < 0:
                continue
            try:
                found._take(path, fd)
            finally:
                os.close(fd)
        return found

    def _take(self, path: Path, fd: int) -> None:
        about = os.fstat(fd)
        if path.name == MANIFEST:
            self.manifest = _identity(fd, about.st_size)
            if self.manifest is not None:
                self.identities[self.manifest] = None
        elif not path.name.endswith(".json"):
            mark = marked_in(os.pread(fd, 2 * BLOCK, 0))
            if mark is not None:
                self.identities[mark[0]] = None
            elif not path.name.endswith(".tar"):  # one that is still empty counts: it is arriving
                return
        changed = max(about.st_mtime, about.st_ctime)
        self.files.append(File(shown(path), about.st_size, about.st_mtime_ns, changed))


def _identity(fd: int, size: int) -> Digest | None:
    """Which bundle a document is; one that is none, as while it is being copied, is its own."""
    raw = os.pread(fd, min(size, MAX_BUNDLE) + 1, 0)
    try:
        return BundleManifest.parse(raw).identity
    except Malformed:
        return Digest.of(raw)


def _opened(path: Path) -> int:
    """A descriptor of a regular file; -1: it is none, or is gone."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return -1
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        return -1


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(each.name for _, each in zip(range(_MOST_FILES), entries, strict=False))


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        found = [Path(each.path) for each in entries if each.is_dir(follow_symlinks=False)]
    return sorted(each for each in found if each.name not in _NOT_OURS and not each.name.startswith("."))
