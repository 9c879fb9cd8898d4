"""What the process may use, and what it must have.

Rule 1: connections are capped well below the descriptors that there are: an idle one has its socket, one that is sent a
        file has a duplicate of it and the file too. More wait in the kernel's queue; where all the others want files
        at once, the last ones are answered 503 (threats L16).
Rule 2: HTTP is parsed by aiohttp's C parser (llhttp); the Python one parses other languages in places (threats T76).
"""

from __future__ import annotations

import resource
from contextlib import suppress

from aiohttp import http_parser

from iarproxy.errors import ConfigError

_WANTED = 65_536
_SHARE = 2 / 3  # of the descriptors are for clients' sockets; the rest is for the files that some of them are sent
_RESERVED = 512  # for the fast lane, the store, the ledger, upstream connections and the log


def raise_file_limit() -> None:
    """Let this process and its children open as many files as they are allowed to, up to `_WANTED`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def connection_limit(wanted: int) -> int:
    """`wanted` connections, or fewer where there are not enough descriptors for them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(16, min(wanted, int((soft - _RESERVED) * _SHARE)))


def require_c_parser() -> None:
    """Refuse to serve with the parser that is written in Python.

    Raises:
        ConfigError: aiohttp was built, or told, to do without its C parser.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError("aiohttp runs without its C parser: install its wheel, and unset AIOHTTP_NO_EXTENSIONS")
