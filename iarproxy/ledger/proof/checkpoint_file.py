"""Checkpoints as files: the copies that leave the machine, and what people bring back.

Rule 1: a line is one JSON object with the signed note as `checkpoint`. So are the log line that tells of a checkpoint
        and the event that does: whole logs are read in the same way, past all other lines; and so is a bare note. So
        is what came over the air gap, a bundle's `journal.json` and a receipt: one line each, however long.
Rule 2: a line is appended in one write and synced. Reading is bounded; what calls itself a checkpoint and is none is
        refused, and so is a file without any.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from iarproxy.errors import Malformed, Refused, StoreUnavailable
from iarproxy.ledger.journal_file import sync_fully
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.trust.note import MAX_NOTE

_MANY = 100_000  # checkpoints: some 80 MB, and half a minute to check their signatures
_MAX_LINE = 4 * MAX_NOTE  # bytes: a note as JSON, and what a log line has beside it
_MAX_DOCUMENT = 256 * 2**20  # bytes of a first line, if that is all there is


def append(path: Path, made: SignedCheckpoint) -> None:
    """Add a line for the checkpoint to the file at `path`, which is made where there is none, mode 0644.

    Raises:
        StoreUnavailable: it cannot be written.
    """
    at = None if made.at is None else made.at.isoformat()
    line = orjson.dumps({"at": at, "checkpoint": str(made.note)}, option=orjson.OPT_APPEND_NEWLINE)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o644)
        try:
            _append(descriptor, line)
            sync_fully(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreUnavailable(f"the checkpoint file {path} cannot be written: {error.strerror}") from error


def read(path: Path) -> Iterator[SignedCheckpoint]:
    """The checkpoints in a file of such lines, or the one of a bare note.

    Raises:
        Refused: it cannot be read.
        Malformed: it holds none, or something that only looks like one.
    """
    try:
        with path.open("rb") as lines:
            line = lines.readline(_MAX_LINE)  # it may be a pipe: nothing is read twice
            if line[:1] not in (b"", b"{"):
                yield _parsed(str(path), line + lines.read(MAX_NOTE), None)
                return
            if not line.endswith(b"\n"):
                line += lines.readline(_MAX_DOCUMENT)
            found, number = False, 0
            while line:
                number += 1
                note = _note_of(line)
                if note is not None:
                    found = True
                    yield _parsed(f"line {number} of {path}", *note)
                line = lines.readline(_MAX_LINE)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    if not found:
        raise Malformed(f"{path} holds no checkpoint: a signed note, or lines of JSON with `checkpoint`, are wanted")


class Thinned(NamedTuple):
    """Some of `number` checkpoints, in order."""

    kept: list[SignedCheckpoint]
    number: int


def thinned(found: Iterable[SignedCheckpoint], most: int = _MANY) -> Thinned:
    """Of very many checkpoints about `most`, evenly, and always the last: a year has half a million minutes.

    What is left out is not compared: between two that are kept, another history may hide. Whoever reads them says so.
    """
    kept: list[SignedCheckpoint] = []
    step, count, last = 1, 0, None
    for number, last in enumerate(found):  # the last one is used after the loop
        count = number + 1
        if number % step == 0:
            kept.append(last)
        if len(kept) > most:
            kept, step = kept[::2], 2 * step
    return Thinned(kept if last is None or kept[-1] is last else [*kept, last], count)


def _append(descriptor: int, line: bytes) -> None:
    """After a line that a crash tore, begin anew: it must not swallow this one."""
    size = os.fstat(descriptor).st_size
    torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
    data = memoryview(b"\n" + line if torn else line)
    while data:
        data = data[os.write(descriptor, data) :]


def _note_of(line: bytes) -> tuple[str, Any] | None:
    """The note in a line and when it was made; None: the line is about something else, or torn."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    fields = document if isinstance(document, dict) else {}
    data = fields.get("data")
    note = fields.get("checkpoint") or (data.get("checkpoint") if isinstance(data, dict) else _in_receipt(fields))
    return (note, fields.get("at")) if isinstance(note, str) else None


def _in_receipt(fields: dict[str, Any]) -> str | None:
    """The checkpoint of a site in its receipt, whose signature is not looked at: the note has its own."""
    try:
        said = orjson.loads(base64.b64decode(fields["dsseEnvelope"]["payload"]))
        return str(said["predicate"]["journal"]["checkpoint"])
    except (ValueError, LookupError, TypeError):
        return None


def _parsed(place: str, note: str | bytes, at: Any) -> SignedCheckpoint:
    moment = None
    with suppress(ValueError, TypeError):
        moment = datetime.fromisoformat(at)
    try:
        return SignedCheckpoint.parse(note, moment)
    except Malformed as error:
        raise Malformed(f"{place}: {error}") from error
