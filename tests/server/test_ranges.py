"""Byte ranges: the parser against a reference, and over the wire (clients.md items 40 to 45, threats T77)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import RangeUnsatisfiable
from iarproxy.oci import Digest
from iarproxy.server.ranges import Part, Whole, select
from serving import FakeMirror, serving

DATA = bytes(range(256)) * 40  # 10,240 bytes
WIDE = st.integers(0, 60)


@given(first=st.none() | WIDE, last=st.none() | WIDE, size=st.integers(0, 50))
def test_select_agrees_with_slicing(first: int | None, last: int | None, size: int) -> None:
    """Whatever the numbers, the selection is what Python's slicing takes, or 416 where that is nothing."""
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    data = bytes(range(size))
    suffix = data[-last:] if last else b""
    expected = suffix if first is None else data[first : None if last is None else last + 1]
    backwards = first is not None and last is not None and last < first
    try:
        chosen = select(header, None, '"e"', size)
    except RangeUnsatisfiable:
        assert expected == b""
        return
    if isinstance(chosen, Whole):
        assert (first is None and last is None) or backwards
    else:
        assert data[chosen.start : chosen.stop] == expected
        assert 0 <= chosen.start < chosen.stop <= size


@given(st.text(max_size=40))
def test_anything_else_is_ignored(text: str) -> None:
    """A header that is no range never raises anything but 416."""
    try:
        assert isinstance(select(text, None, '"e"', 10), Whole | Part)
    except RangeUnsatisfiable as error:
        assert error.size == 10  # noqa: PT017  # both endings are right


@pytest.mark.parametrize(
    "header",
    [
        *("bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1", "lines=0-1", "bytes=0-1,3-4", "bytes=-1-2", "0-1"),
        *(
            "bytes=\u0661-",
            "bytes=1-\u0662",
            "bytes=0x1-",
            "bytes=+1-",
            "bytes=1-2-3",
            "bytes=" + "9" * 30 + "-",
            "bytes=500-0",
        ),
    ],
)
def test_malformed_is_whole(header: str) -> None:
    """Rule 1: malformed, multi-part, foreign digits, a start of 30 digits: 200 with all of it."""
    assert select(header, None, '"e"', 1000) == Whole()


@pytest.mark.parametrize(
    ("header", "status", "start", "stop"),
    [
        ("bytes=500-1499", 206, 500, 1500),
        ("bytes=500-", 206, 500, 10240),
        ("bytes=-500", 206, 9740, 10240),
        ("bytes=-99999", 206, 0, 10240),
        ("bytes=0-", 206, 0, 10240),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=10239-", 206, 10239, 10240),
        ("bytes=2000-999999", 206, 2000, 10240),
        ("BYTES=5-9", 206, 5, 10),
        ("bytes=1-2, 4-5", 200, 0, 10240),
        ("bytes=500-0", 200, 0, 10240),
        ("none", 200, 0, 10240),
    ],
)
@pytest.mark.parametrize("kernel", [True, False])
async def test_over_the_wire(tmp_path: Path, header: str, status: int, start: int, stop: int, *, kernel: bool) -> None:
    """Items 40 to 42: status, Content-Range, length and bytes of each shape, in both ways of sending."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(DATA)
    async with serving(mirror, kernel=kernel) as served:
        reply = await served.ask(f"/v2/alpine/blobs/{blob}", Range=header)
    assert (reply.status, reply.body) == (status, DATA[start:stop])
    assert reply.headers["content-length"] == str(stop - start)
    assert reply.headers.get("content-range") == (f"bytes {start}-{stop - 1}/10240" if status == 206 else None)
    assert reply.headers["docker-content-digest"] == str(blob)


@pytest.mark.parametrize("header", ["bytes=10240-", "bytes=99999-100000", "bytes=-0", f"bytes={2**62}-"])
async def test_unsatisfiable(tmp_path: Path, header: str) -> None:
    """Item 40: a range behind the end is 416 with the size."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(DATA)
    async with serving(mirror) as served:
        reply = await served.ask(f"/v2/alpine/blobs/{blob}", Range=header)
    assert (reply.status, reply.headers["content-range"]) == (416, "bytes */10240")


async def test_if_range(tmp_path: Path) -> None:
    """Item 43: our ETag keeps the range; anything else gets the whole blob."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(DATA)
    async with serving(mirror) as served:
        target = f"/v2/alpine/blobs/{blob}"
        same = await served.ask(target, Range="bytes=1-2", If_Range=f'"{blob}"')
        other = await served.ask(target, Range="bytes=1-2", If_Range=f'"{Digest.of(b"")}"')
        weak = await served.ask(target, Range="bytes=1-2", If_Range=f'W/"{blob}"')
        date = await served.ask(target, Range="bytes=1-2", If_Range="Sat, 01 Jan 2022 00:00:00 GMT")
    assert [each.status for each in (same, other, weak, date)] == [206, 200, 200, 200]


async def test_two_range_headers_are_none(tmp_path: Path) -> None:
    """A repeated header is ambiguous, so it selects nothing."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(DATA)
    async with serving(mirror) as served:
        raw = await served.raw(
            f"GET /v2/alpine/blobs/{blob} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n"
            "Range: bytes=1-2\r\nRange: bytes=3-4\r\n\r\n".encode()
        )
    assert raw.startswith(b"HTTP/1.1 200")
