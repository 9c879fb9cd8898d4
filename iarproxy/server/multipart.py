"""Several parts of a blob in one answer: `multipart/byteranges` (RFC 9110 section 14.6; clients.md item 42).

Rule 1: the length is known before the first byte, as of every answer; the parts are spans of the file, not copies.
Rule 2: what separates the parts is the digest of the blob: no blob holds its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from iarproxy.mirror.serving.answers import FileSpan
from iarproxy.oci import Digest
from iarproxy.oci.media_types import OCTET_STREAM
from iarproxy.server import contents
from iarproxy.server.answer import Answer
from iarproxy.server.ranges import Parts

_BOUNDARY = 64  # characters; 70 are allowed (RFC 2046 section 5.1.1)
Spans = Callable[[int, int], AsyncIterator[FileSpan | bytes]]


@dataclass(frozen=True, slots=True)
class Framed:
    """An answer with several parts.

    Attributes:
        frames: what comes before each part, and after the last one.
    """

    answer: Answer
    parts: Parts
    frames: tuple[bytes, ...]

    async def body(self, spans: Spans) -> AsyncGenerator[FileSpan | bytes, None]:
        """The whole body, of the blob's `spans`."""
        for frame, part in zip(self.frames, self.parts.each, strict=False):
            yield frame
            piece = spans(part.start, part.stop)
            try:
                async for span in piece:
                    yield span
            finally:
                if isinstance(piece, AsyncGenerator):
                    await piece.aclose()
        yield self.frames[-1]


def framed(digest: Digest, size: int, parts: Parts, shown: Mapping[str, str]) -> Framed:
    """The answer with `parts` of a blob of `size` bytes."""
    boundary = digest.hex[:_BOUNDARY]
    texts = [f"--{boundary}\r\n{_fields(each.start, each.stop, size)}\r\n" for each in parts.each]
    texts = [text if at == 0 else f"\r\n{text}" for at, text in enumerate([*texts, f"--{boundary}--\r\n"])]
    frames = tuple(text.encode("ascii") for text in texts)
    length = sum(map(len, frames)) + sum(each.stop - each.start for each in parts.each)
    headers = contents.blob(digest, size, None, shown).headers
    kind = {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
    return Framed(Answer(206, {**headers, **kind}, length=length), parts, frames)


def _fields(start: int, stop: int, size: int) -> str:
    return f"Content-Type: {OCTET_STREAM}\r\nContent-Range: bytes {start}-{stop - 1}/{size}\r\n"
