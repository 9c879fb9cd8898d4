"""The volumes of a bundle: where in which of them each byte stands, and what their framing is.

Rule 1: ustar (POSIX.1-1988), and for the paths of sha512 blobs, which are too long for it, a pax header (POSIX.1-2001).
        Mode 0644, owner 0, time 0, no names of users, no folders: the same content gives the same bytes.
Rule 2: everything follows from the manifest: a reader computes what the framing has to be and compares. No archive is
        ever parsed to be believed, so there is nothing that a hostile one could say.
Rule 3: each volume begins with `iarproxy/volume.json`, which says of which bundle and which part of it that is. The
        first goes on with the OCI layout's own files; then come the blobs by digest. A blob that does not fit stands
        in pieces, `iarproxy/pieces/ALGORITHM/HEX/START`, one a volume, in consecutive volumes.
Rule 4: a blob is split only where it fits in no volume, or where moving it would waste over a sixteenth of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci.bundle_manifest import Carried
from iarproxy.oci.digest import Digest

BLOCK = 512  # bytes
END = 2 * BLOCK  # bytes of zeros that end an archive
MAX_ENTRY = 8 * 2**30 - BLOCK  # bytes: eleven octal digits, in whole blocks
MIN_VOLUME = 2**20  # bytes
MAX_VOLUMES = 20_000
MAX_BYTES = 2**47  # of all blobs of a bundle
_NAME, _PREFIX = 100, 155  # bytes of a ustar path's two parts
_SHORT = _NAME - len("blobs/sha256/")  # hex digits of a digest whose whole blob has a path that fits into a name
_START = 2 * BLOCK  # the mark and its header: it is shorter than a block
_WASTE = 16
VOLUME = "iarproxy/volume.json"


@dataclass(frozen=True, slots=True)
class Literal:
    """A file whose bytes follow from the manifest."""

    name: str
    data: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `start + size` of a blob of `whole` bytes."""

    digest: Digest
    start: int
    size: int
    whole: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the blob."""
        return self.size == self.whole

    @property
    def name(self) -> str:
        """Its path."""
        where = f"{self.digest.algorithm}/{self.digest.hex}"
        return f"blobs/{where}" if self.is_whole else f"iarproxy/pieces/{where}/{self.start}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a volume. `at`: where its header begins, which has `head` bytes."""

    content: Literal | Piece
    at: int
    head: int

    @property
    def header(self) -> bytes:
        """The exact bytes before its data; made anew each time: those of all blobs together would fill the memory."""
        return _header(self.content)

    @property
    def data_at(self) -> int:
        """Where its data begins."""
        return self.at + self.head

    @property
    def end(self) -> int:
        """Where the next entry begins; between data and that are zeros."""
        return self.data_at + padded(self.content.size)


@dataclass(frozen=True, slots=True)
class Volume:
    """A file of a bundle; `number` counts from 1."""

    number: int
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """In bytes; the last `END` of them are zeros."""
        return self.entries[-1].end + END

    @property
    def pieces(self) -> Iterator[Entry]:
        """The entries that are blobs, or pieces of them."""
        return (entry for entry in self.entries if isinstance(entry.content, Piece))


@dataclass(frozen=True, slots=True)
class Extent:
    """Where bytes of a blob stand."""

    volume: int
    at: int
    piece: Piece


def padded(size: int) -> int:
    """`size` up to a whole block."""
    return -(-size // BLOCK) * BLOCK


def volumes(bundle: Digest, layout: Sequence[Literal], blobs: Sequence[Carried], limit: int | None) -> list[Volume]:
    """How a bundle is cut.

    Args:
        bundle: its identity.
        layout: the OCI layout's own files, in order.
        blobs: what travels, in order.
        limit: the most bytes of a volume; None: one volume takes all.

    Raises:
        Malformed: volumes of that size cannot hold it.
    """
    first = tuple(_placed(layout, _START))
    cut = [list(first)]
    for number, at, head, size, blob, done in _pieces(first[-1].end if first else _START, blobs, limit):
        if number > len(cut):
            cut.append([])
        cut[-1].append(Entry(Piece(blob.digest, done, size, blob.size), at, head))
    return [
        Volume(number, (Entry(_marked(bundle, number, len(cut)), 0, BLOCK), *entries))
        for number, entries in enumerate(cut, 1)
    ]


def volume_sizes(layout: Sequence[Literal], blobs: Sequence[Carried], limit: int | None) -> list[int]:
    """The sizes of what `volumes` makes, in bytes, in a fraction of its time and memory.

    Raises:
        Malformed: as `volumes`.
    """
    used = _START + sum(_taken(each) for each in layout)
    ends = [used]
    for number, at, head, size, _, _ in _pieces(used, blobs, limit):
        if number > len(ends):
            ends.append(0)
        ends[-1] = at + head + padded(size)
    return [end + END for end in ends]


def archive(contents: Sequence[Literal | Piece]) -> tuple[Entry, ...]:
    """What stands where in one archive of any size; behind it come `END` zeros.

    Raises:
        Malformed: a file is too large for an archive.
    """
    for each in contents:
        if each.size > MAX_ENTRY:
            raise Malformed(f"{each.name} has {each.size} bytes, and a tar archive takes {MAX_ENTRY}; write a folder")
    return tuple(_placed(contents))


def extents(cut: Sequence[Volume]) -> dict[Digest, list[Extent]]:
    """Where each blob stands, its pieces in order."""
    found: dict[Digest, list[Extent]] = {}
    for volume in cut:
        for entry in volume.pieces:
            assert isinstance(entry.content, Piece)  # noqa: S101  # `pieces` gives no other
            found.setdefault(entry.content.digest, []).append(Extent(volume.number, entry.data_at, entry.content))
    return found


def _marked(bundle: Digest, number: int, total: int) -> Literal:
    return Literal(VOLUME, orjson.dumps({"bundle": str(bundle), "volume": number, "volumes": total}))


def marked_in(data: bytes) -> tuple[Digest, int, int] | None:
    """Which bundle, volume and number of volumes the first bytes of a file say that it is; None: it is no volume.

    Nothing of it is to be believed but for telling people what they hold.
    """
    try:
        document = orjson.loads(data[BLOCK : 2 * BLOCK].rstrip(b"\0"))
        return Digest.parse(document["bundle"]), int(document["volume"]), int(document["volumes"])
    except (ValueError, LookupError, TypeError, AttributeError, Malformed):
        return None


def _pieces(
    used: int, blobs: Sequence[Carried], limit: int | None
) -> Iterator[tuple[int, int, int, int, Carried, int]]:
    """How blobs are cut: for each piece the number of its volume, where its header begins there, the sizes of header
    and piece, the blob, and where in it the piece begins. `used`: bytes of the first volume that other things take.
    """
    _insist_possible(used, blobs, limit)
    number = 1
    for blob in blobs:
        done = 0
        while done < blob.size or not done:
            room = MAX_ENTRY if limit is None else limit - END - used
            found = _next(blob, done, room, limit)
            if found is None:
                number, used = number + 1, _START
                continue
            size, head = found
            yield number, used, head, size, blob, done
            used += head + padded(size)
            done += size
            if not blob.size:
                break


def _insist_possible(used: int, blobs: Sequence[Carried], limit: int | None) -> None:
    if limit is not None and limit < MIN_VOLUME:
        raise Malformed(f"a volume of {limit} bytes is too small; give at least {MIN_VOLUME}")
    size = sum(each.size for each in blobs)
    if size > min(MAX_BYTES, MAX_VOLUMES * (limit or MAX_BYTES)):
        raise Malformed(
            f"{size} bytes are too many for volumes of {limit or MAX_ENTRY}; at most {MAX_VOLUMES} are made"
        )
    if limit is not None and used + END > limit:
        raise Malformed(f"volumes of {limit} bytes cannot hold the bundle's index of {used} bytes; choose larger ones")


def _next(blob: Carried, done: int, room: int, limit: int | None) -> tuple[int, int] | None:
    """How many bytes of a blob come next in a volume with so much room, and the size of the header before them; None:
    it waits for the next volume.
    """
    left = blob.size - done
    head = _framed(blob, done, left)
    taken = head + padded(left)
    if left <= MAX_ENTRY and taken <= room:
        return left, head
    fresh = MAX_ENTRY if limit is None else limit - END - _START
    if limit is not None and taken <= fresh and room < limit // _WASTE:
        return None
    fits = min((room - _framed(blob, done, 0)) // BLOCK * BLOCK, MAX_ENTRY)
    if fits < BLOCK or (limit is not None and room < limit // _WASTE and fits < left):
        return None
    most = left if done else (left - 1) // BLOCK * BLOCK  # all of it did not fit: whole blobs may have longer headers
    size = min(fits, most)
    return size, _framed(blob, done, size)


def _framed(blob: Carried, done: int, size: int) -> int:
    """The size of the header of so many bytes of a blob."""
    if size == blob.size and len(blob.digest.hex) <= _SHORT:
        return BLOCK
    return _header_size(Piece(blob.digest, done, size, blob.size))


def _taken(content: Literal | Piece) -> int:
    return _header_size(content) + padded(content.size)


def _placed(contents: Sequence[Literal | Piece], at: int = 0) -> Iterator[Entry]:
    for content in contents:
        entry = Entry(content, at, _header_size(content))
        yield entry
        at = entry.end


def _header_size(content: Literal | Piece) -> int:
    """How many bytes `_header` gives, without making them."""
    path = content.name.encode()
    return BLOCK if len(path) <= _NAME or _parted(path) else len(_header(content))


def _header(content: Literal | Piece) -> bytes:
    path = content.name.encode()
    if len(path) <= _NAME:
        return _block(path, b"", content.size, b"0")
    if cut := _parted(path):
        return _block(path[cut + 1 :], path[:cut], content.size, b"0")
    return _pax(path) + _block(path[:_NAME], b"", content.size, b"0")


def _parted(path: bytes) -> int:
    """Where a path that is too long for a name is parted into prefix and name; 0: it is too long for both."""
    cut = path.find(b"/", len(path) - _NAME - 1)
    return cut if 0 < cut <= _PREFIX else 0


def _pax(path: bytes) -> bytes:
    """The extended header that gives the entry behind it a long path."""
    body = b" path=" + path + b"\n"
    size = len(body) + 2
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    record = str(size).encode() + body
    return _block(b"pax/" + path[: _NAME - 4], b"", len(record), b"x") + record.ljust(padded(len(record)), b"\0")


def _block(name: bytes, prefix: bytes, size: int, kind: bytes) -> bytes:
    """One ustar header."""
    fields = [
        name.ljust(_NAME, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"00000000000\0",
        b" " * 8,  # where the checksum will stand
        kind,
        b"\0" * 100,
        b"ustar\0" + b"00",
        b"\0" * 64,
        b"0000000\0",
        b"0000000\0",
        prefix.ljust(_PREFIX, b"\0"),
        b"\0" * 12,
    ]
    plain = b"".join(fields)
    return plain.replace(b" " * 8, b"%06o\0 " % sum(plain), 1)
