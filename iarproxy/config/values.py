"""How sizes, durations, addresses and patterns are written in the configuration."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from yarl import URL

from iarproxy.errors import Malformed
from iarproxy.trust import Pattern

_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_UNITS |= {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TCP = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})", re.ASCII)
_MAX_PORT = 65535
# What follows `docker-credential-` in the name of a program: never a path, never an option (clients.md 11.5).
HELPER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]i?B|B)?", str(value), re.ASCII)
    if found is None or found[2] not in (None, *_UNITS) or float(found[1]) == 0:
        raise ValueError(f'not a size: {str(value)[:40]!r}; write for example "50GiB"')
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _duration(value: Any) -> Any:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)", str(value), re.ASCII)
    if found is None:
        raise ValueError(f'not a duration: {str(value)[:40]!r}; write for example "30s", "6h" or "7d"')
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


def _address(value: Any) -> Any:
    found = _TCP.fullmatch(str(value))
    if str(value).startswith("unix:/") or (found and 0 < int(found[2]) <= _MAX_PORT):
        return value
    raise ValueError(f'not an address: {str(value)[:80]!r}; write "127.0.0.1:5000" or "unix:/path"')


def _pattern(value: Any) -> Any:
    try:
        return value if isinstance(value, Pattern) else Pattern(str(value))
    except Malformed as error:
        raise ValueError(str(error)) from error


def _path(value: Any) -> Any:
    text = str(value)
    if text != "~" and not text.startswith("~/"):
        return value
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError("this user has no home folder; write the whole path") from error


HomePath = Annotated[Path, BeforeValidator(_path)]  # `~/` is the home folder of the user that serves
Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Address = Annotated[str, BeforeValidator(_address)]
Glob = Annotated[Pattern, BeforeValidator(_pattern)]


def web_address(text: str) -> URL | None:
    """The address in `text`; None: it is none, or its port is none."""
    try:
        url = URL(text)
        found = url.port is not None
    except ValueError:
        return None
    return url if found else None
