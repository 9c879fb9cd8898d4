"""Any text that is read as a lock, and which kind it is.

Rule 1: the kind is told by the content, at a glance: our first line, else keys at the beginning of a line. Its reader
        then insists on it. What shows none of them is a list, found anywhere in the text.
Rule 2: every error names the file and the line (in JSON the path), and how to force another reading.
"""

from __future__ import annotations

import re
from typing import assert_never

from iarproxy.errors import Malformed
from iarproxy.oci.lock import Lock, LockFormat, is_iar, read_iar, write_iar
from iarproxy.oci.lock_formats import read_compose, read_imageslock, read_kbld, read_kpromo, write_imageslock
from iarproxy.oci.lock_list import read_list, write_list
from iarproxy.oci.yaml_text import text_of

_KEY = r"(?:^|[{{,])[ \t]{{0,32}}[\"']?{key}[\"']?[ \t]{{0,32}}:"
_SIGNS = (
    (LockFormat.IMAGESLOCK, re.compile(_KEY.format(key="kind") + r"[ \t]{0,32}[\"']?ImagesLock\b", re.MULTILINE)),
    (LockFormat.KBLD, re.compile(_KEY.format(key="apiVersion") + r"[ \t]{0,32}[\"']?kbld\.", re.MULTILINE)),
    (LockFormat.COMPOSE, re.compile(r"(?:^|\A[ \t\n]*\{[ \t\n]*)[\"']?services[\"']?[ \t]{0,32}:", re.MULTILINE)),
    (LockFormat.KPROMO, re.compile(_KEY.format(key="(?:- )?dmap"), re.MULTILINE)),
)


def format_of(text: str) -> LockFormat:
    """Which kind of lock the text is."""
    if is_iar(text):
        return LockFormat.IAR
    return next((kind for kind, sign in _SIGNS if sign.search(text)), LockFormat.LIST)


def read_lock(data: bytes, name: str, kind: LockFormat | None = None, prefix: str | None = None) -> Lock:
    """The lock in the bytes of a file.

    Args:
        data: the file.
        name: of the file, for errors.
        kind: how to read it; None: as the content says.
        prefix: registry and path in front of the names of a kpromo list.

    Raises:
        Malformed: with name and line.
    """
    try:
        text = text_of(data)
        found = format_of(text) if kind is None else kind
    except Malformed as error:
        raise Malformed(f"{name}, {error}") from None
    try:
        return _read(text, found, prefix)
    except Malformed as error:
        forced = "" if kind or found is LockFormat.IAR else f" (read as {found}; --format forces another)"
        raise Malformed(f"{name}, {error}{forced}") from None


def _read(text: str, kind: LockFormat, prefix: str | None) -> Lock:
    match kind:
        case LockFormat.IAR:
            return read_iar(text)
        case LockFormat.IMAGESLOCK:
            return read_imageslock(text)
        case LockFormat.LIST:
            return read_list(text)
        case LockFormat.KBLD:
            return read_kbld(text)
        case LockFormat.COMPOSE:
            return read_compose(text)
        case LockFormat.KPROMO:
            return read_kpromo(text, prefix)
        case _:
            assert_never(kind)


def write_lock(lock: Lock, kind: LockFormat, environment: str) -> bytes:
    """The text of a lock: the same for the same entries, byte for byte.

    Raises:
        Malformed: this kind is only read.
    """
    match kind:
        case LockFormat.IAR:
            return write_iar(lock, environment).encode()
        case LockFormat.IMAGESLOCK:
            return write_imageslock(lock).encode()
        case LockFormat.LIST:
            return write_list(lock).encode()
        case LockFormat.KBLD | LockFormat.COMPOSE | LockFormat.KPROMO:
            raise Malformed(f"{kind} is only read; write iar, imageslock or list")
        case _:
            assert_never(kind)
