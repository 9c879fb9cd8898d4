"""In-toto statements that iarproxy alone writes and reads: about one file, by its name and sha256.

Rule 1: canonical JSON: sorted keys, one spelling of each value; what is not exactly what would be written again is
        `Malformed`.
Rule 2: the subject is the sha256 of a file that people have, so that others' tools (`cosign verify-blob`) can verify
        that the file was signed, with nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci.digest import Digest
from iarproxy.trust.promotion_record import STATEMENT

T = TypeVar("T")
_MOMENT = "%Y-%m-%dT%H:%M:%SZ"


def written(file: str, digest: Digest, kind: str, predicate: dict[str, Any]) -> bytes:
    """The statement of the predicate type `kind` about the file of that name and content."""
    return orjson.dumps(
        {
            "_type": STATEMENT,
            "subject": [{"name": file, "digest": {digest.algorithm: digest.hex}}],
            "predicateType": kind,
            "predicate": predicate,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def read(payload: bytes, kind: str, made: Callable[[Digest, dict[str, Any]], T], again: Callable[[T], bytes]) -> T:
    """What a statement of the predicate type `kind` says; `made` builds it of subject and predicate, `again` writes it.

    Raises:
        Malformed: it is none, or not exactly as it would be written.
    """
    try:
        document = orjson.loads(payload)
        if isinstance(document, dict) and document.get("predicateType") != kind:
            raise Malformed(f"the statement is of type {str(document.get('predicateType'))[:120]!r}, not {kind}")
        (subject,) = document["subject"]
        found = made(Digest("sha256", subject["digest"]["sha256"]), document["predicate"])
        if again(found) == payload:
            return found
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Malformed(f"not a statement of type {kind}: {str(error)[:120]}") from error
    raise Malformed(f"not a statement of type {kind} as iarproxy writes it")


def moment(at: datetime) -> str:
    """The one spelling of a moment: UTC, seconds."""
    return at.astimezone(UTC).strftime(_MOMENT)


def moment_in(text: str) -> datetime:
    """The moment of that spelling.

    Raises:
        ValueError, TypeError: it is none.
    """
    return datetime.fromisoformat(text).astimezone(UTC)  # other spellings are not written again as they were (rule 1)


def number(value: Any, least: int = 0) -> int:
    """A whole number that JSON readers agree on.

    Raises:
        ValueError: it is none, or below `least`.
    """
    if type(value) is not int or not least <= value < 2**53:
        raise ValueError(f"not a number from {least} on: {str(value)[:40]}")
    return value


def text(value: Any, most: int = 256) -> str:
    """A line of printable text.

    Raises:
        ValueError: it is none, empty or longer.
    """
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= most:
        raise ValueError(f"not a line of text: {str(value)[:40]!r}")
    return value
