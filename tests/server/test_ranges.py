"""Byte ranges: the parser against a reference, and over the wire (clients.md items 40 to 45, threats T77)."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import RangeUnsatisfiable, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.server.ranges import MAX_PARTS, Part, Parts, Whole, select
from serving import FakeMirror, Reply, both_loops, failing, serving

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
        assert isinstance(chosen, Part)
        assert data[chosen.start : chosen.stop] == expected
        assert 0 <= chosen.start < chosen.stop <= size


@given(st.text(max_size=40))
def test_anything_else_is_ignored(text: str) -> None:
    """A header that is no range never raises anything but 416."""
    try:
        assert isinstance(select(text, None, '"e"', 10), Whole | Part | Parts)
    except RangeUnsatisfiable as error:
        assert error.size == 10  # noqa: PT017  # both endings are right


@pytest.mark.parametrize(
    "header",
    [
        *("bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1", "lines=0-1", "bytes=0-1,", "bytes=-1-2", "0-1"),
        *(
            "bytes=\u0661-",
            "bytes=1-\u0662",
            "bytes=0x1-",
            "bytes=+1-",
            "bytes=1-2-3",
            "bytes=" + "9" * 30 + "-",
            "bytes=500-0",
        ),
        *("bytes=0-1,a", "bytes=0-1,1000-", "bytes=0-600,400-", "bytes=0-1,,3-4", "lines=0-1,2-3"),
        "bytes=" + ",".join(f"{at}-{at}" for at in range(MAX_PARTS + 1)).replace("1000-1000", "0-0"),
    ],
)
def test_malformed_is_whole(header: str) -> None:
    """Rule 1: malformed, more than the blob, foreign digits, a start of 30 digits: 200 with all of it."""
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
        ("bytes=1-2, 4-50000, 3-", 200, 0, 10240),
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


def parts_of(reply: Reply) -> list[tuple[str, bytes]]:
    """`Content-Range` and bytes of each part, as a MIME reader sees them."""
    head = f"Content-Type: {reply.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + reply.body)
    assert message.get_content_type() == "multipart/byteranges"
    pieces = cast("list[Message]", message.get_payload())
    return [(str(each["Content-Range"]), cast("bytes", each.get_payload(decode=True))) for each in pieces]


@pytest.mark.parametrize("kernel", [True, False])
@both_loops
async def test_item_42_several_ranges(tmp_path: Path, *, kernel: bool) -> None:
    """Item 42: podman's 1,024 pieces of a layer, in a header of 20 kB: each comes back as asked, and in order."""
    mirror = FakeMirror(tmp_path)
    data = bytes(range(1, 256)) * 60_000
    blob = mirror.add(data)
    asked = [(at * 14_000 + at % 7, at * 14_000 + at % 7 + at % 900) for at in range(MAX_PARTS)]
    asked[500], asked[501] = asked[501], asked[500]
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in asked)
    assert len(header) > 16_000
    async with serving(mirror, kernel=kernel) as served:
        reply = await served.ask(f"/v2/alpine/blobs/{blob}", Range=header)
        head = await served.ask(f"/v2/alpine/blobs/{blob}", "HEAD", Range=header)
    assert (206, len(reply.body)) == (reply.status, int(reply.headers["content-length"]))
    assert "content-range" not in reply.headers
    expected = [(f"bytes {first}-{last}/{len(data)}", data[first : last + 1]) for first, last in asked]
    assert expected == parts_of(reply)
    assert (200, str(len(data))) == (head.status, head.headers["content-length"])
    assert all(body.closed for body in mirror.bodies)


async def test_several_small_ranges_and_a_suffix(tmp_path: Path) -> None:
    """What fits into one write comes in one; spaces, suffixes and open ends are ranges too."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(DATA)
    async with serving(mirror) as served:
        reply = await served.ask(f"/v2/alpine/blobs/{blob}", Range="bytes=0-0 , -3,10230-")
    assert [DATA[:1], DATA[-3:], DATA[10230:]] == [data for _, data in parts_of(reply)]


async def test_several_ranges_of_a_blob_that_breaks(tmp_path: Path) -> None:
    """Item 11: what cannot be had is a cut, never a complete-looking answer."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(DATA * 10)
    mirror.growing = failing(UpstreamWrong("the digest does not agree"), 100)
    async with serving(mirror) as served:
        reply = await served.ask(f"/v2/alpine/blobs/{blob}", Range="bytes=0-99,1000-2000")
    assert 206 == reply.status
    assert len(reply.body) < int(reply.headers["content-length"])
    assert mirror.bodies[0].closed
