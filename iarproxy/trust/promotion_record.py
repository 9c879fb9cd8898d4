"""The record of a promotion: an in-toto statement v1 that says which digest was let into which environment, and why.

Rule 1: the subject is the digest and nothing else; what the name was, and whose act it is, stands in the predicate. A
        signature binds no name by itself: who verifies compares the predicate too.
Rule 2: the same record gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci import Digest, TagReference
from iarproxy.trust.gates import Verdict, verdict_as_json

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://iarproxy.dev/promotion/v1"


@dataclass(frozen=True, slots=True)
class Origin:
    """The journal that has the entry: its name, and the serial at which it ended when the statement was made."""

    name: str
    serial: int


@dataclass(frozen=True, slots=True)
class PromotionRecord:
    """One name's step into an environment.

    Attributes:
        source, target: environments.
        previous: what the name stood for in the target before; None: nothing.
        verdicts: of the gates, by their names.
    """

    reference: TagReference
    digest: Digest
    source: str
    target: str
    previous: Digest | None
    reason: str
    actor: str
    at: datetime
    verdicts: Sequence[tuple[str, Verdict]]
    origin: Origin


def statement_of(record: PromotionRecord) -> bytes:
    """The statement, ready to be signed."""
    digest = record.digest
    predicate = {
        "reference": str(record.reference),
        "from": record.source,
        "to": record.target,
        "previous": None if record.previous is None else str(record.previous),
        "reason": record.reason,
        "actor": record.actor,
        "promotedAt": record.at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "gates": [{"gate": name, **verdict_as_json(verdict)} for name, verdict in record.verdicts],
        "journal": {"origin": record.origin.name, "serial": record.origin.serial},
    }
    return orjson.dumps(
        {
            "_type": STATEMENT,
            "subject": [{"name": str(record.reference.repository), "digest": {digest.algorithm: digest.hex}}],
            "predicateType": PREDICATE,
            "predicate": predicate,
        }
    )


def predicate_about(statement: bytes, digest: Digest) -> dict[str, Any]:
    """What a verified statement says of the promotion of `digest`.

    Raises:
        Malformed: it is no record of a promotion, or of another digest's.
    """
    try:
        document = orjson.loads(statement)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the statement is not JSON: {str(error)[:120]}") from error
    match document:
        case {"_type": str(kind), "predicateType": str(said), "subject": [{"digest": dict(of)}], "predicate": dict(it)}:
            if (kind, said) != (STATEMENT, PREDICATE):
                raise Malformed(f"the statement is of type {said[:120]!r}, not a record of a promotion")
            if of != {digest.algorithm: digest.hex}:
                raise Malformed(f"the statement is not about {digest}")
            return it
        case _:
            raise Malformed("not an in-toto statement about one digest")
