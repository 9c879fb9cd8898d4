"""Tar archives of others, as values: which regular files stand where in them. Nothing is ever extracted.

Rule 1: POSIX.1-1988 ustar, POSIX.1-2001 pax headers (path, linkpath, size) and GNU long names are read; what two
        readers could see differently is refused: repeated names, sparse files, global headers that rename, headers
        without a sound checksum, an archive without an end.
Rule 2: a file's name is relative and plain: no `..`, no empty part, nothing absolute.
Rule 3: hard links, devices and pipes are refused. Symbolic links are only noted, with the name inside the archive that
        they lead to: docker and podman write such for repeated layers, and nobody follows one that leads elsewhere.
Rule 4: everything is bounded: how many entries there are, and how long their headers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace

from iarproxy.errors import Malformed
from iarproxy.oci.descriptor import MAX_SIZE
from iarproxy.oci.volumes import BLOCK, padded

MAX_ENTRIES = 50_000
MAX_NAME = 1024  # characters
_MAX_EXTENDED = 64 * 1024  # bytes of one extended header
_FOLDER, _LINK = b"5", b"2"
_KINDS = {b"1": "a hard link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of a file stand in the archive."""

    at: int
    size: int


@dataclass(slots=True)
class Contents:
    """The regular files, by name; and where symbolic links lead."""

    files: dict[str, Extent] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.files) + len(self.links) + len(self.folders)

    def resolved(self, name: str) -> Extent | None:
        """Where the bytes of a file stand, at most one symbolic link away; None: there is none of that name."""
        return self.files.get(self.links.get(name, name))


@dataclass(frozen=True, slots=True)
class _Extended:
    """What extended headers say of the entry behind them."""

    path: str | None = None
    link: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class _Header:
    kind: bytes
    name: str
    link: str
    size: int


def entries() -> Generator[tuple[int, int], bytes, Contents]:
    """Walk through an archive: yields where and how many bytes it needs, is sent them (fewer where the file ends), and
    returns what the archive holds.

    Raises:
        Malformed: it breaks one of the rules above.
    """
    found, said, at = Contents(), _Extended(), 0
    while True:
        block = yield at, BLOCK
        if len(block) < BLOCK:
            raise Malformed("it ends in the middle: it was cut short, or is no tar archive")
        if not any(block):
            return _ended(found, said)
        header = _header(block)
        at += BLOCK
        if header.kind in (b"x", b"g", b"L", b"K"):
            if header.size > _MAX_EXTENDED:
                raise Malformed(f"a header of {header.size} bytes; at most {_MAX_EXTENDED} are read")
            said = _learned(said, header.kind, (yield at, header.size), header.size)
        else:
            header = replace(header, size=header.size if said.size is None else said.size)
            _note(found, header, said, at)
            said = _Extended()
        at += padded(header.size)


def clean(text: str) -> str:
    """A name inside an archive, in the one spelling that is looked up.

    Raises:
        Malformed: it is absolute, leads upwards, or has an empty part.
    """
    parts = text.removesuffix("/").split("/")
    if parts[0] == "." and len(parts) > 1:
        parts = parts[1:]
    if parts == ["."]:
        return "."
    if len(text) > MAX_NAME or "\0" in text or any(part in ("", ".", "..") for part in parts):
        raise Malformed(f"the name {text[:160]!r} is absolute, leads upwards, or is no plain name")
    return "/".join(parts)


def _ended(found: Contents, said: _Extended) -> Contents:
    if said != _Extended():
        raise Malformed("it ends behind an extended header, which belongs to no entry")
    return found


def _note(found: Contents, header: _Header, said: _Extended, at: int) -> None:
    called = header.name if said.path is None else said.path
    name, is_file = clean(called), header.kind in (b"0", b"\0")
    if len(found) >= MAX_ENTRIES:
        raise Malformed(f"more than {MAX_ENTRIES} entries")
    if name in found.files or name in found.links or (name in found.folders and header.kind != _FOLDER):
        raise Malformed(f"two entries are called {name[:160]!r}; two readers would see two archives")
    if is_file and not called.endswith("/"):
        found.files[name] = Extent(at, header.size)
    elif is_file or header.size or header.kind not in (_FOLDER, _LINK):
        raise Malformed(f"{name[:160]!r} is {_KINDS.get(header.kind, f'an entry of kind {header.kind!r}')}; refused")
    elif header.kind == _FOLDER:
        found.folders.add(name)
    else:
        found.links[name] = _target(name, header.link if said.link is None else said.link)


def _target(name: str, link: str) -> str:
    """Which name of the archive a link leads to: beside it, or beside its folder.

    Raises:
        Malformed: it leads elsewhere.
    """
    folder = name.split("/")[:-1]
    if link.startswith("../") and folder:
        folder, link = folder[:-1], link[3:]
    try:
        return clean("/".join([*folder, link]))
    except Malformed:
        raise Malformed(f"the link {name[:160]!r} leads to {link[:160]!r}, which is no name in here; refused") from None


# --- headers ---------------------------------------------------------------------------------------------------------


def _header(block: bytes) -> _Header:
    summed = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    if block[148:156].strip(b" \0").lstrip(b"0") != b"%o" % summed:
        raise Malformed("a header's checksum is wrong: it is damaged, or no tar archive")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    return _Header(block[156:157], name, _text(block[157:257]), _number(block[124:136]))


def _number(data: bytes) -> int:
    """A number in octal digits, or in GNU's base-256."""
    if data[0] == 0x80:  # noqa: PLR2004  # the mark of a positive number in base-256
        number = int.from_bytes(data[1:])
    else:
        digits = data.strip(b" \0")
        if digits.translate(None, b"01234567"):
            raise Malformed(f"a header has no number where one belongs: {data!r}")
        number = int(digits or b"0", 8)
    if number > MAX_SIZE:
        raise Malformed(f"a header says {number} bytes, which is no size")
    return number


def _text(data: bytes) -> str:
    try:
        return data.partition(b"\0")[0].decode()
    except UnicodeDecodeError:
        raise Malformed(f"a name is not UTF-8: {data[:80]!r}") from None


# --- extended headers ------------------------------------------------------------------------------------------------


def _learned(said: _Extended, kind: bytes, data: bytes, size: int) -> _Extended:
    if len(data) < size:
        raise Malformed("it ends in the middle of a header: it was cut short")
    match kind:
        case b"L":
            fresh = _Extended(path=_text(data))
        case b"K":
            fresh = _Extended(link=_text(data))
        case _:
            fresh = _from_records(dict(_records(data)), is_global=kind == b"g")
    if any(None not in pair for pair in ((said.path, fresh.path), (said.link, fresh.link), (said.size, fresh.size))):
        raise Malformed("an entry has two long names, or two sizes")
    return _Extended(fresh.path or said.path, fresh.link or said.link, said.size if fresh.size is None else fresh.size)


def _from_records(records: dict[str, str], *, is_global: bool) -> _Extended:
    if is_global and records:
        raise Malformed("a global header changes entries; refused")
    if any(key.startswith("GNU.sparse") for key in records):
        raise Malformed("a sparse file; refused")
    size = records.get("size")
    if size is not None and not (size.isascii() and size.isdigit() and len(size) <= 16 and int(size) <= MAX_SIZE):  # noqa: PLR2004  # digits of MAX_SIZE
        raise Malformed(f"a header says {size[:40]!r} bytes, which is no size")
    return _Extended(records.get("path"), records.get("linkpath"), None if size is None else int(size))


def _records(data: bytes) -> Generator[tuple[str, str]]:
    """The `length key=value` lines of a pax header."""
    seen: set[bytes] = set()
    while data:
        length, blank, rest = data.partition(b" ")
        if not (blank and length.isdigit() and len(length) <= 6 and len(length) + 2 < int(length) <= len(data)):  # noqa: PLR2004  # digits of _MAX_EXTENDED
            raise Malformed("an extended header is damaged")
        record, data = rest[: int(length) - len(length) - 1], data[int(length) :]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or key in seen:
            raise Malformed("an extended header is damaged, or repeats itself")
        seen.add(key)
        if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse"):
            if not value or b"\0" in value:
                raise Malformed("an extended header gives an empty name, or one with a zero byte")
            yield _text(key), _text(value)
        elif key == b"hdrcharset":
            raise Malformed("an extended header names a character set of its own")
