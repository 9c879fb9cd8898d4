"""What iarproxy itself attached to content: the signed records of promotions.

Rule 1: a projection. The journal entry of a promotion names its statement, and a row follows from it; so a rebuild of
        the ledger knows them again, and a statement whose promotion never happened is attached to nothing.
Rule 2: a row that fails its checksum is not listed; a verifier that misses a record fails closed.
Rule 3: of a digest that was promoted ten thousand times the newest records are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, bindparam, column, insert, select, table, text

from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import for_each, is_intact, sealed, where
from iarproxy.ledger.values import EventKind, to_json
from iarproxy.oci import Descriptor, Digest, Repository

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

LISTED = 100  # records of one digest in one repository

STEP = (
    """
CREATE TABLE attached (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  subject TEXT NOT NULL,
  serial INTEGER NOT NULL, -- of the journal row that made this one
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  artifact_type TEXT NOT NULL,
  annotations TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, subject, serial)
) STRICT, WITHOUT ROWID
""",
)

_COLUMNS = ("registry", "repository", "subject", "serial", "digest", "media_type", "size", "artifact_type")
ATTACHED = table("attached", *map(column, (*_COLUMNS, "annotations", "checksum")))
_INSERT = for_each(insert(ATTACHED).prefix_with("OR REPLACE"))
_OF = (
    select(ATTACHED)
    .where(*where(ATTACHED, "registry", "repository", "subject"))
    .order_by(ATTACHED.c.serial.desc())
    .limit(bindparam("limit"))
)

_RECORDED = text("""SELECT count(*) FROM journal WHERE kind = 'promoted' AND body LIKE '%"statement":{%'""")


@dataclass(frozen=True, slots=True)
class AttachedManifest:
    """A manifest of ours whose subject is other content, as lists of referrers show it."""

    descriptor: Descriptor
    artifact_type: str
    annotations: dict[str, str] = field(default_factory=dict)


def attachment(attached: AttachedManifest) -> dict[str, Any]:
    """What the journal entry of a promotion says of its statement: the value of `statement` in its body."""
    shown = {"artifactType": attached.artifact_type, "annotations": attached.annotations}
    return {**(to_json(attached.descriptor) or {}), **shown}


def project(connection: Connection, entries: Sequence[Entry]) -> None:
    """Make the rows that follow from the entries of promotions."""
    told = [(entry, entry.document()) for entry in entries if entry.kind == EventKind.PROMOTED]
    recorded = [(entry, body) for entry, body in told if body.get("statement") is not None]
    _INSERT(connection, [_row(entry, body["descriptor"]["digest"], body["statement"]) for entry, body in recorded])


def _row(entry: Entry, subject: str, statement: dict[str, Any]) -> dict[str, Any]:
    values = {
        "registry": entry.registry,
        "repository": entry.repository,
        "subject": subject,
        "serial": entry.serial,
        "digest": statement["digest"],
        "media_type": statement["mediaType"],
        "size": statement["size"],
        "artifact_type": statement["artifactType"],
        "annotations": orjson.dumps(statement["annotations"], option=orjson.OPT_SORT_KEYS).decode(),
    }
    return sealed(ATTACHED, values)


def of(connection: Connection, repository: Repository, subject: Digest) -> list[AttachedManifest]:
    """What is attached to `subject` in `repository`, the oldest first; of many the newest."""
    key = {"registry": repository.registry, "repository": repository.name, "subject": str(subject), "limit": LISTED}
    rows = [row for row in connection.execute(_OF, key) if is_intact(ATTACHED, row)]
    return [_value(row) for row in reversed(rows)]


def _value(row: Any) -> AttachedManifest:
    descriptor = Descriptor(row.media_type, Digest.parse(row.digest), row.size)
    return AttachedManifest(descriptor, row.artifact_type, orjson.loads(row.annotations))


def problems(connection: Connection) -> list[str]:
    """What is wrong with the rows, beside the journal."""
    bad = sum(not is_intact(ATTACHED, row) for row in connection.execute(select(ATTACHED)))
    wanted = connection.execute(_RECORDED).scalar_one()
    held = connection.execute(text("SELECT count(*) FROM attached")).scalar_one()
    missing = [f"{wanted - held} records of promotions are not attached"] if held < wanted else []
    broken = [f"{bad} rows of `attached` fail their checksum, and are not listed"] if bad else []
    return [f"{each}; `iarproxy ledger rebuild` makes them anew" for each in (*missing, *broken)]


class Attached:
    """What is attached in one store, as one process sees it."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def of(self, repository: Repository, subject: Digest) -> list[AttachedManifest]:
        """What we attached to `subject` in `repository`, the oldest first; at most `LISTED`, the newest.

        Raises:
            LedgerUnavailable: there is no answer now.
        """
        return await self._shared.thread.read(partial(of, repository=repository, subject=subject))
