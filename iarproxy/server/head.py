"""A request head that is so plain that no two parsers can read it in two ways, read by httptools.

Rule 1: the shape is checked before the parser sees it: printable ASCII, CRLF at each line's end, no folded line, at
        most 32 fields. What is odd but legal is left to aiohttp, which also answers what is wrong.
Rule 2: a head that could mean more than "send me this" is not plain: a body, a condition, an upgrade, an expectation,
        a close, HTTP/1.0, or a field twice that should come once.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import httptools

MAX_HEAD = 4096  # bytes
_SHAPE = re.compile(rb"(GET|HEAD) [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n){1,32}\r\n")
_NOT_PLAIN = frozenset(
    b"content-length transfer-encoding trailer te upgrade expect http2-settings proxy-connection keep-alive"
    b" if-match if-none-match if-modified-since if-unmodified-since".split()
)
_MAY_REPEAT = frozenset((b"accept",))  # Go sends one line a type


class Plain(NamedTuple):
    """What a plain head asks.

    Attributes:
        with_body: GET; else HEAD.
        target: as sent.
        host, range, if_range, agent: the values of these fields; None: not sent.
    """

    with_body: bool
    target: str
    host: str
    range: str | None
    if_range: str | None
    agent: str | None


def is_one_head(data: bytes) -> bool:
    """Whether `data` ends as a head ends, and no head ends before."""
    return data.find(b"\r\n\r\n") == len(data) - 4


def read_head(data: bytes) -> Plain | None:
    """What `data` asks; None: it is not exactly one plain head."""
    if len(data) > MAX_HEAD or not is_one_head(data) or _SHAPE.fullmatch(data) is None:
        return None
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if not reader.complete or not parser.should_keep_alive() or parser.get_http_version() != "1.1":
        return None
    return reader.plain(with_body=parser.get_method() == b"GET")


class _Reader:
    """What the parser calls."""

    __slots__ = ("complete", "fields", "target", "twice")

    def __init__(self) -> None:
        self.target = b""
        self.fields: dict[bytes, bytes] = {}
        self.twice = False
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.twice = self.twice or (name in self.fields and name not in _MAY_REPEAT)
        self.fields[name] = value.strip(b" \t")

    def on_message_complete(self) -> None:
        self.complete = True

    def plain(self, *, with_body: bool) -> Plain | None:
        if self.twice or not _NOT_PLAIN.isdisjoint(self.fields) or not self.fields.get(b"host"):
            return None
        if self.fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        host, *others = (self._text(name) for name in (b"host", b"range", b"if-range", b"user-agent"))
        return Plain(with_body, self.target.decode("ascii"), host or "", *others)

    def _text(self, name: bytes) -> str | None:
        value = self.fields.get(name)
        return None if value is None else value.decode("ascii")
