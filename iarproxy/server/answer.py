"""An answer as a value, and its head as the exact bytes that go on the wire.

Rule 1: one place spells HTTP heads, so that no framework adds a header (no `Server`, `Vary`, `Content-Encoding`).
Rule 2: HEAD and GET share one `Answer`; they differ only in whether the body follows, so their heads cannot differ.
Rule 3: a header value holds printable ASCII only; anything else is a defect here, never something to send (CWE-113).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELDS = re.compile(r"(?:[\x20-\x7e]+\r\n)*", re.ASCII)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# On every answer, errors included (clients.md section 10, items 2 and 14).
_ALWAYS = "Docker-Distribution-API-Version: registry/2.0\r\nX-Content-Type-Options: nosniff\r\n"
_FIRST = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n{_ALWAYS}".encode("ascii") for status in HTTPStatus
}

IMMUTABLE = "public, max-age=31536000, immutable"
NO_CACHE = "no-cache"
NO_STORE = "no-store"


@dataclass(slots=True)
class Answer:
    """A whole answer.

    Attributes:
        length: `Content-Length` in bytes where it is not that of `body`; None: it is.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None

    def head(self, connection: str = "") -> bytes:
        """Status line and headers. `connection`: the value of `Connection`; empty: HTTP/1.1's default."""
        before, after = self.head_around_date(connection)
        return before + date_line(int(time.time())) + after  # noqa: TID251  # no decision hangs on it

    def head_around_date(self, connection: str = "") -> tuple[bytes, bytes]:
        """What `head` has before its `Date`, and what after it."""
        fields = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        if _FIELDS.fullmatch(fields) is None or fields.count("\n") != len(self.headers):
            raise ValueError(f"a header is not one line of printable ASCII: {fields!r}")
        lines = [fields]
        if self.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            lines.append(f"Content-Length: {len(self.body) if self.length is None else self.length}\r\n")
        if connection:
            lines.append(f"Connection: {connection}\r\n")
        lines.append("\r\n")
        return _FIRST[self.status], "".join(lines).encode("ascii")


@lru_cache(maxsize=2)
def date_line(second: int) -> bytes:
    """The `Date` header (RFC 9110 section 5.6.7), spelled once per second and never by locale."""
    when = time.gmtime(second)
    day, month = _DAYS[when.tm_wday], _MONTHS[when.tm_mon - 1]
    clock = f"{when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02}"
    return f"Date: {day}, {when.tm_mday:02} {month} {when.tm_year} {clock} GMT\r\n".encode("ascii")
