"""Where everything lies below the store's root, and what a root must be to be used.

Rule 1: blobs lie at `blobs/<algorithm>/<hex>` beside `oci-layout` and `index.json`: any OCI tool can read the store.
Rule 2: names are built from parsed digests only; nothing that a client or upstream wrote becomes a path.
Rule 3: the root belongs to this process's user, has mode 0700, and neither it nor its folders are symbolic links.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import orjson

from iarproxy.errors import ConfigError
from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.digest import ALGORITHMS
from iarproxy.store.disk import Disk, remove, sync_directory, write_all

VERSION: Final = 1
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_FOLDERS: Final = ("blobs", *(f"blobs/{algorithm}" for algorithm in ALGORITHMS), "ingest", "quarantine")


@dataclass(frozen=True, slots=True)
class Layout:
    """The names below `root`."""

    root: str

    def blob(self, digest: Digest) -> str:
        """The final name of a blob."""
        return f"{self.root}/blobs/{digest.algorithm}/{digest.hex}"

    def part(self, digest: Digest) -> str:
        """The bytes of a blob that still arrives."""
        return f"{self.root}/ingest/{digest.algorithm}-{digest.hex}.part"

    def lock(self, digest: Digest) -> str:
        """The lock file beside `part`."""
        return f"{self.root}/ingest/{digest.algorithm}-{digest.hex}.lock"

    @property
    def ingest(self) -> str:
        """The folder of what still arrives."""
        return f"{self.root}/ingest"

    @property
    def pieces(self) -> str:
        """The folder of pieces of blobs whose other pieces are still on their way."""
        return f"{self.root}/pieces"

    @property
    def quarantine(self) -> str:
        """The folder of what was found damaged."""
        return f"{self.root}/quarantine"

    @property
    def checksums(self) -> str:
        """Append-only lines `<digest> <xxh3-128> <size>`: they find local rot and never admit content."""
        return f"{self.root}/checksums"

    @property
    def usage(self) -> str:
        """The counter of bytes and blobs that all workers share."""
        return f"{self.root}/usage"

    @property
    def changes(self) -> str:
        """Digests whose final names changed while a recount ran."""
        return f"{self.root}/usage.changes"


def prepare(root: Path, disk: Disk) -> tuple[Layout, str]:
    """Check the root, make what is missing, and return its names and its identity.

    Raises:
        ConfigError: for a root that is not ours alone, or is no store; one line with the remedy.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(root)
        layout = Layout(str(root))
        for folder in _FOLDERS:
            (root / folder).mkdir(mode=0o700, exist_ok=True)
            _check_folder(root / folder)
        if not (root / "store.json").exists():
            _create(disk, root / "oci-layout", orjson.dumps({"imageLayoutVersion": "1.0.0"}))
            _create(disk, root / "index.json", index_of(()))
            _create(disk, root / "store.json", orjson.dumps({"identity": str(uuid4()), "layout": VERSION}))
            sync_directory(disk, f"{root}/blobs")
        sync_directory(disk, str(root))  # always: whoever made the names may have died before it came to that
        return layout, _identity(root / "store.json")
    except OSError as error:
        raise ConfigError(f"store {root}: {error.strerror}; check [store] path and its permissions") from error


def index_of(entries: Sequence[tuple[str, Descriptor]]) -> bytes:
    """An OCI image index that names each descriptor by `org.opencontainers.image.ref.name`."""
    manifests = [
        {
            "mediaType": descriptor.media_type,
            "digest": str(descriptor.digest),
            "size": descriptor.size,
            "annotations": {"org.opencontainers.image.ref.name": name},
        }
        for name, descriptor in sorted(entries, key=lambda entry: entry[0])
    ]
    return orjson.dumps({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": manifests})


def replace_file(disk: Disk, path: str, data: bytes) -> None:
    """Replace `path` at once and durably: readers see the old bytes or the new ones."""
    temporary = _temporary(disk, path, data)
    os.rename(temporary, path)  # noqa: PTH104  # paths are plain strings here
    sync_directory(disk, os.path.dirname(path))  # noqa: PTH120  # paths are plain strings here


class ServingLock:
    """Held by the one `serve` of a store, over forks; closing it lets another one start."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            self.close()
            raise ConfigError(
                f"store {path.parent} is served already by process {pid}; stop it or choose another [store] path"
            ) from None
        os.pwrite(self._fd, f"{os.getpid():<19}\n".encode(), 0)

    def close(self) -> None:
        """Give the store back. A forked worker that still runs keeps holding it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def is_served(path: Path) -> bool:
    """Whether the process that last took the lock at `path` is there; another one may have its number since."""
    try:
        os.kill(int(path.read_text("ascii")), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


class Election:
    """Which of several processes does what only one should do: calling it tells whether this one is elected.

    The elected one holds the flock of the lock file; when it ends, whoever asks next is elected.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def __call__(self) -> bool:
        """Whether this process is the elected one; never waits."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Stand down."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _check(root: Path) -> None:
    _check_folder(root)
    found = root.lstat()
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"store {root} belongs to user {found.st_uid}, this is user {os.geteuid()}; run as its owner or chown it"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"store {root} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): chmod 700 {root}"
        )


def _check_folder(folder: Path) -> None:
    mode = folder.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise ConfigError(f"store folder {folder} is a symbolic link; name the real folder in [store] path")
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"store folder {folder} is not a folder; move it away")


def _create(disk: Disk, path: Path, data: bytes) -> None:
    """Give `path` these first bytes; of several processes the first one wins."""
    if path.exists():
        return
    temporary = _temporary(disk, str(path), data)
    try:
        disk.link(temporary, str(path))
    except FileExistsError:
        pass
    finally:
        remove(temporary)


def _temporary(disk: Disk, path: str, data: bytes) -> str:
    temporary = f"{path}.{uuid4().hex}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(disk, fd, data)
        disk.fsync(fd)
    except OSError:
        remove(temporary)
        raise
    finally:
        os.close(fd)
    return temporary


def _identity(path: Path) -> str:
    try:
        found = orjson.loads(path.read_bytes())
        identity, version = str(UUID(found["identity"])), found["layout"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged; restore it from a backup of the store") from error
    if version != VERSION:
        raise ConfigError(f"{path} says layout {version}, this iarproxy knows {VERSION}; use the iarproxy that made it")
    return identity
