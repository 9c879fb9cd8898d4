"""A request head that is so plain that no two parsers can read it in two ways, read by httptools.

Rule 1: the shape is checked before the parser sees it: printable ASCII, CRLF at each line's end, no folded line, at
        most 32 fields. What is odd but legal is left to aiohttp, which also answers what is wrong.
Rule 2: a head that could mean more than "send me this" (and close) is not plain: a body, a condition, an upgrade, an
        expectation, a target that is no path, HTTP/1.0, or a field twice that should come once.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import httptools

MAX_HEAD = 4096  # bytes
_SHAPE = re.compile(rb"(GET|HEAD) /[!-~]* HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n){1,32}\r\n")
_NOT_PLAIN = frozenset(
    b"content-length transfer-encoding trailer te upgrade expect http2-settings proxy-connection keep-alive"
    b" sec-websocket-key1 if-match if-none-match if-modified-since if-unmodified-since".split()
)
_MAY_REPEAT = frozenset((b"accept",))  # Go sends one line a type


class Plain(NamedTuple):
    """What a plain head asks.

    Attributes:
        with_body: GET; else HEAD.
        closes: the connection ends with the answer.
        target: as sent.
        host, range, if_range, agent: the values of these fields; None: not sent.
    """

    with_body: bool
    closes: bool
    target: str
    host: str
    range: str | None
    if_range: str | None
    agent: str | None


def read_head(data: bytes) -> Plain | None:
    """What `data` asks; None: it is not exactly one plain head."""
    if len(data) > MAX_HEAD or _SHAPE.fullmatch(data) is None:
        return None
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if not reader.complete:
        return None
    return _plain(reader, with_body=parser.get_method() == b"GET")


class _Reader:
    """What the parser calls."""

    __slots__ = ("complete", "fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_message_complete(self) -> None:
        self.complete = True


def _plain(reader: _Reader, *, with_body: bool) -> Plain | None:
    fields = dict(reader.fields)
    if len(fields) != len(reader.fields) and _comes_twice(reader.fields):
        return None
    host = _value(fields.get(b"host"))
    if not host or not _NOT_PLAIN.isdisjoint(fields):
        return None
    connection = fields.get(b"connection", b"keep-alive").strip(b" \t").lower()
    if connection not in (b"keep-alive", b"close"):
        return None
    return Plain(
        with_body,
        connection == b"close",
        reader.target.decode("ascii"),
        host,
        _value(fields.get(b"range")),
        _value(fields.get(b"if-range")),
        _value(fields.get(b"user-agent")),
    )


def _comes_twice(fields: list[tuple[bytes, bytes]]) -> bool:
    once = [name for name, _ in fields if name not in _MAY_REPEAT]
    return len(once) != len(set(once))


def _value(raw: bytes | None) -> str | None:
    return None if raw is None else raw.strip(b" \t").decode("ascii")
