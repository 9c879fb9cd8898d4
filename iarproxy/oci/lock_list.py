"""Lists of `name:tag@sha256:...`, found anywhere in a text (Renovate's style: Dockerfiles, workflows, values files).

Rule 1: what stands before `@sha256:` is looked at backwards, a bounded way: time grows with the text's length only.
Rule 2: a digest of the wrong length is an error, since one that was cut would drop a pin; so is one whose algorithm is
        misspelt. `@sha256:` without any hex digit after it is prose.
"""

from __future__ import annotations

import re

from iarproxy.errors import Malformed
from iarproxy.oci.lock import NO_TAG, Collected, Lock, Locked, Named

_AT = re.compile(r"@((?i:sha)[0-9]{3}:[0-9a-fA-F][0-9a-zA-Z]{0,200})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._:/\[\]$-]*", re.ASCII)  # `$`: a variable is no name, and must not look like one
_LONGEST = 400  # characters of a name


def write_list(lock: Lock) -> str:
    """A line for each entry."""
    return "".join(f"{entry}\n" for entry in lock.entries)


def read_list(text: str) -> Lock:
    """What is found in `text`.

    Raises:
        Malformed: a digest is none, or two say different things of one tag; with the line.
    """
    found = Collected()
    line, counted = 1, 0
    for at in _AT.finditer(text):
        line += text.count("\n", counted, at.start())
        counted = at.start()
        _take(found, line, _name_before(text, at.start()), at[1])
    return found.lock()


def _name_before(text: str, end: int) -> str:
    backwards = _NAME.match(text[max(0, end - _LONGEST) : end][::-1])
    name = backwards[0][::-1] if backwards else ""
    return name.rpartition("://")[2]


def _take(found: Collected, line: int, name: str, digest: str) -> None:
    written = f"{name}@{digest}"
    try:
        named = Named.parse(name)
    except Malformed:
        found.skip(line, written, "is no name of an image")
        return
    try:
        exact = Named.parse(written).digest
    except Malformed as error:
        raise Malformed(f"line {line}: {name}: {error}") from None
    if named.reference is None:
        found.skip(line, written, NO_TAG)
    elif exact is not None:
        found.add(Locked(named.reference, exact, line=line))
