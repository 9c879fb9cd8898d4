"""Locks: tags and the content that each stands for, as a value; and `iar.lock`, our text of it, made for git.

    # iar.lock 1
    # environment: prod
    ghcr.io/org/app:1.2@sha256:<64 hex> application/vnd.oci.image.index.v1+json 1853   # a comment

Rule 1: the first line says what it is. Then one line for each tag: REGISTRY/REPOSITORY:TAG@DIGEST, and where it is
        known the manifest's media type and size. Names are written out in their canonical form. `#` begins a comment.
Rule 2: the same pins give the same bytes: lines are sorted, nothing is aligned, and no time, serial or source is in it.
        A changed pin is one changed line; when and by whom it changed, the journal knows.
Rule 3: reading is strict: a line that is anything else, or a tag that is there twice, is an error that names the line.
        The order of the lines is free, as git merges them.
Rule 4: a reference that looks like an image and gives no pin is `Skipped` with a reason; nothing is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from iarproxy.errors import Malformed
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.reference import Repository, Tag, TagReference, parse_reference
from iarproxy.oci.yaml_text import malformed_at

MAGIC = "# iar.lock 1"
_MAX_LINE = 2048  # characters, of a line that is no comment
_MAX_SKIPPED = 200  # characters of its text
_ANY_MAGIC = re.compile(r"# ?iar\.lock ([0-9]{1,9})", re.ASCII)
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_COMMENT, _SPACE = re.compile(r"[ \t]#"), re.compile(r"[ \t]+")
_CONFLICT = ("<<<<<<<", "=======", ">>>>>>>")  # what git leaves in a file
NO_TAG = "has no tag; only tags are pinned"
NO_DIGEST = "has no digest"


class LockFormat(StrEnum):
    """Which texts are read as a lock; the first three are written too."""

    IAR = "iar"
    IMAGESLOCK = "imageslock"
    LIST = "list"
    KBLD = "kbld"
    COMPOSE = "compose"
    KPROMO = "kpromo"


WRITABLE = (LockFormat.IAR, LockFormat.IMAGESLOCK, LockFormat.LIST)


@dataclass(frozen=True, slots=True)
class Locked:
    """A tag and the digest that it shall stand for.

    Attributes:
        media_type, size: of the manifest, in bytes; both or neither are known.
        line: where it was read; 0: not known.
    """

    reference: TagReference
    digest: Digest
    media_type: str = ""
    size: int | None = None
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if self.size is not None:
            Descriptor(self.media_type, self.digest, self.size)  # raises what is wrong about it
        elif self.media_type:
            raise Malformed(f"{self.reference}: a media type without a size; write both or neither")

    def __str__(self) -> str:
        return f"{self.reference}@{self.digest}"

    def contradicts(self, found: Descriptor) -> bool:
        """Whether the content is not what the lock says of it."""
        said = (self.media_type, self.size) if self.size is not None else (found.media_type, found.size)
        return (self.digest, *said) != (found.digest, found.media_type, found.size)


@dataclass(frozen=True, slots=True)
class Skipped:
    """What looks like an image and gives no pin, where, and why."""

    line: int
    text: str
    reason: str

    @classmethod
    def of(cls, line: int, text: str, reason: str) -> Skipped:
        """With its text cut, and nothing in it that a terminal would obey."""
        shown = "".join(each if each.isprintable() else "?" for each in text[:_MAX_SKIPPED])
        return cls(line, shown, reason)

    def __str__(self) -> str:
        return f"{f'line {self.line}: ' if self.line else ''}{self.text}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Lock:
    """The entries by reference, each reference once, and what gave none."""

    entries: tuple[Locked, ...]
    skipped: tuple[Skipped, ...] = field(default=(), compare=False)

    def by_reference(self) -> dict[TagReference, Locked]:
        """The entries, to be looked up."""
        return {each.reference: each for each in self.entries}


class Collected:
    """A lock while it is read: contradictions are refused, and with `once` repetitions too."""

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self._found: dict[TagReference, Locked] = {}
        self._skipped: list[Skipped] = []

    def add(self, entry: Locked, path: str = "") -> None:
        """One more entry, from `path`.

        Raises:
            Malformed: the tag is locked already, to another digest or (with `once`) at all.
        """
        known = self._found.setdefault(entry.reference, entry)
        if known.digest != entry.digest:
            before = f" in line {known.line}" if known.line else " before"
            raise malformed_at(
                entry.line, path, f"{entry.reference} is locked to {entry.digest}, and to {known.digest}{before}"
            )
        if self._once and known is not entry:
            raise malformed_at(
                entry.line, path, f"{entry.reference} is there twice, first in line {known.line}; remove one"
            )

    def skip(self, line: int, text: str, reason: str) -> None:
        """Something that gives no pin."""
        self._skipped.append(Skipped.of(line, text, reason))

    def lock(self) -> Lock:
        """All of it."""
        return locked(self._found.values(), self._skipped)


def locked(entries: Iterable[Locked], skipped: Iterable[Skipped] = ()) -> Lock:
    """The lock of entries in any order, each of another tag."""
    return Lock(tuple(sorted(entries, key=lambda each: each.reference)), tuple(skipped))


@dataclass(frozen=True, slots=True)
class Named:
    """An image as people write it: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`."""

    repository: Repository
    tag: Tag | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Named:
        """What `text` says, without a tag that it does not say. A name without a registry is Docker Hub's, as for
        every program that writes these files.

        Raises:
            Malformed: it is no name of an image.
        """
        name, at, digest = text.partition("@")
        found = parse_reference(name)
        if not isinstance(found, TagReference) or (at and not digest):
            raise Malformed(f"not an image: {text[:200]!r}")
        tag = found.tag if ":" in name.rpartition("/")[2] else None
        return cls(found.repository, tag, Digest.parse(digest) if at else None)

    @property
    def reference(self) -> TagReference | None:
        """The tag that it names; None: it names none."""
        return None if self.tag is None else TagReference(self.repository, self.tag)

    @property
    def pulled(self) -> TagReference:
        """The tag that a client pulls who is told no digest."""
        return TagReference(self.repository, self.tag or Tag("latest"))


# --- iar.lock --------------------------------------------------------------------------------------------------------


def write_iar(lock: Lock, environment: str) -> str:
    """The text of a lock (rule 2)."""
    head = [
        MAGIC,
        "# Tags and the content they stand for, written by `iarproxy lock export` and read by `iarproxy lock import`.",
        f"# environment: {environment}",
    ]
    return "".join(f"{line}\n" for line in [*head, *map(_line, lock.entries)])


def _line(entry: Locked) -> str:
    return str(entry) if entry.size is None else f"{entry} {entry.media_type} {entry.size}"


def is_iar(text: str) -> bool:
    """Whether the first line says that this is one of ours, of whichever version."""
    return _ANY_MAGIC.match(text) is not None


def read_iar(text: str) -> Lock:
    """The lock that `text` spells.

    Raises:
        Malformed: with the line.
    """
    lines = text.split("\n")
    if lines[0].rstrip() != MAGIC:
        version = _ANY_MAGIC.match(text)
        said = f"iar.lock {version[1]}, which this iarproxy cannot read" if version else f"no iar.lock: not {MAGIC!r}"
        raise Malformed(f"line 1: {said}")
    found = Collected(once=True)
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("#") or not line.strip():
            continue
        try:
            found.add(_entry(line, number))
        except Malformed as error:
            said = str(error)
            raise Malformed(said if said.startswith("line ") else f"line {number}: {said}") from None
    return found.lock()


def _entry(line: str, number: int) -> Locked:
    if len(line) > _MAX_LINE:
        raise Malformed(f"{len(line)} characters; at most {_MAX_LINE}")
    if line.startswith(_CONFLICT):
        raise Malformed("a merge conflict that nobody resolved")
    said = _COMMENT.split(line.removesuffix("\r"), maxsplit=1)[0].strip(" \t")
    fields = _SPACE.split(said)
    if len(fields) not in (1, 3):
        raise Malformed(f"{len(fields)} fields; expected REGISTRY/REPOSITORY:TAG@DIGEST [MEDIA-TYPE SIZE]")
    named = Named.parse(fields[0])
    if named.digest is None:
        raise Malformed(f"{fields[0][:200]} {NO_DIGEST}; write REGISTRY/REPOSITORY:TAG@DIGEST")
    canonical = f"{named.pulled}@{named.digest}"
    if canonical != fields[0]:
        raise Malformed(f"{fields[0][:200]!r} is not written out; write {canonical}")
    media_type, size = fields[1:] or ("", None)
    if size is not None and _SIZE.fullmatch(size) is None:
        raise Malformed(f"not a size in bytes: {size[:40]!r}")
    return Locked(named.pulled, named.digest, media_type, None if size is None else int(size), number)
