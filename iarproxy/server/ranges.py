"""Byte ranges of a blob (RFC 9110 section 14; clients.md section 10, items 40 to 44; threats T77).

Rule 1: what is malformed, of an unknown unit or more than the blob itself is ignored: 200 with the whole blob is always
        right.
Rule 2: digits are ASCII and few; a huge offset is a number like any other.
Rule 3: `bytes=0-` is a range: containerd reads the 206 as "may be asked for in parallel".
Rule 4: several ranges are answered one by one, in the client's order, none of them joined or left out: podman, which
        asks for the pieces of a zstd:chunked layer, counts them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from iarproxy.errors import RangeUnsatisfiable

MAX_PARTS = 1024  # as many as podman asks for at once

_BLANK = " \t"
_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Whole:
    """All of it, as 200."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` up to `stop` (exclusive), as 206. Never empty."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Several parts, as 206 `multipart/byteranges`; together no longer than the whole."""

    each: tuple[Part, ...]


Selection: TypeAlias = Whole | Part | Parts


def select(header: str | None, if_range: str | None, etag: str, size: int) -> Selection:
    """What a `Range` header selects of `size` bytes; None: the client sent no such header.

    Raises:
        RangeUnsatisfiable: a well-formed range that holds no byte of the blob.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return Whole()
    if "," in header:
        return _several(header, size)
    return _one(header, size)


def _one(header: str, size: int) -> Whole | Part:
    match = _ONE_RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return Whole()
    if not match[1]:
        return _suffix(int(match[2]), size)
    start = int(match[1])
    last = int(match[2]) if match[2] else max(start, size - 1)
    if last < start:
        return Whole()
    if start >= size:
        raise RangeUnsatisfiable(size)
    return Part(start, min(last + 1, size))


def _several(header: str, size: int) -> Whole | Parts:
    unit, _, ranges = header.partition("=")
    texts = ranges.split(",", MAX_PARTS)
    if len(texts) > MAX_PARTS:
        return Whole()
    try:
        found = [_one(f"{unit}={text.strip(_BLANK)}", size) for text in texts]
    except RangeUnsatisfiable:
        return Whole()
    parts = tuple(each for each in found if isinstance(each, Part))
    if len(parts) < len(found) or sum(each.stop - each.start for each in parts) > size:
        return Whole()
    return Parts(parts)


def _suffix(count: int, size: int) -> Part:
    if count == 0 or size == 0:
        raise RangeUnsatisfiable(size)
    return Part(max(0, size - count), size)
