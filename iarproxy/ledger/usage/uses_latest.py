"""When content of a repository was used last, and since when all uses are known: what retention asks.

Rule 1: `horizon` says since when every use is in the table: since the file was begun, or later where rows left because
        there were too many. What is not in the table was not used since then; before that, nobody knows.
Rule 2: it fails safe: a row that fails its checksum, or a horizon that does, is an error, not "unused".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger.rows import checksum, is_sealed
from iarproxy.oci import Repository

STEP = (
    """
CREATE TABLE horizon (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  since INTEGER NOT NULL, -- seconds since 1970
  checksum BLOB NOT NULL
) STRICT
""",
)
_READ = text("SELECT id, since, checksum FROM horizon")
_WRITE = text("INSERT OR REPLACE INTO horizon VALUES (1, :since, :checksum)")
_OLDEST = text("SELECT min(last_at) FROM uses")
_WITHIN = text(
    "SELECT subjects.registry, subjects.repository, subjects.wanted, subjects.digest, uses.client, uses.first_at, "
    "uses.last_at, uses.count, uses.checksum FROM subjects JOIN uses ON uses.subject = subjects.id "
    "WHERE subjects.registry = :registry AND subjects.repository = :repository"
)


@dataclass(frozen=True, slots=True)
class LatestUses:
    """The last use of each tag, and of each digest, of a repository, by its text; aware, UTC.

    `since`: what is not here was not used since then.
    """

    since: datetime
    at: Mapping[str, datetime]


def begin(connection: Connection, now: int) -> None:
    """Remember since when uses are known, unless it is remembered. Rows without it are of an earlier iarproxy."""
    if connection.execute(_READ).one_or_none() is None:
        _write(connection, connection.execute(_OLDEST).scalar() or now)


def left(connection: Connection, last_at: int) -> None:
    """A row that was used last at `last_at` left although it was not too old."""
    row = connection.execute(_READ).one_or_none()
    _write(connection, last_at + 1 if row is None else max(row.since, last_at + 1))


def within(connection: Connection, repository: Repository, kept_since: int) -> LatestUses:
    """When what was used last, of what is kept since then.

    Raises:
        LedgerDamaged: a row fails its checksum, or nobody knows since when uses are known.
    """
    row = connection.execute(_READ).one_or_none()
    if row is None or not is_sealed("horizon", row):
        raise LedgerDamaged("since when uses are known is not")
    latest: dict[str, int] = {}
    about = {"registry": repository.registry, "repository": repository.name}
    for each in connection.execute(_WITHIN, about):
        if not is_sealed("uses", each):
            raise LedgerDamaged(f"a use of {repository} fails its checksum")
        for what in {each.wanted, each.digest} - {""}:
            latest[what] = max(latest.get(what, 0), each.last_at)
    moments = {what: datetime.fromtimestamp(at, UTC) for what, at in latest.items()}
    return LatestUses(datetime.fromtimestamp(max(row.since, kept_since), UTC), moments)


def _write(connection: Connection, since: int) -> None:
    connection.execute(_WRITE, {"since": since, "checksum": checksum("horizon", [1, since])})
