"""Which tags of an upstream are used the most: an order in which to do things, and nothing else.

Rule: read page by page along the index, so that recording never waits for a million rows. The counts are summed by
      SQLite without looking at checksums: a row that is damaged costs its tag its place in the order.
"""

from __future__ import annotations

from typing import TypeAlias

from sqlalchemy import Connection, text

PAGE = 2000  # subjects
Subject: TypeAlias = tuple[str, str, str]  # repository, tag or digest asked for, digest given
START: Subject = ("", "", "")
Ranked: TypeAlias = tuple[int, int, str, str]  # uses, when last (seconds since 1970), repository, tag

_PAGE = text("""
SELECT subjects.repository, subjects.wanted, subjects.digest, sum(uses.count), max(uses.last_at) FROM (
  SELECT id, repository, wanted, digest FROM subjects
  WHERE registry = :registry AND (repository, wanted, digest) > (:repository, :wanted, :digest)
  ORDER BY repository, wanted, digest LIMIT :limit) AS subjects
JOIN uses ON uses.subject = subjects.id
GROUP BY subjects.repository, subjects.wanted, subjects.digest
ORDER BY subjects.repository, subjects.wanted, subjects.digest
""")
_LAST = text("""
SELECT repository, wanted, digest FROM subjects
WHERE registry = :registry AND (repository, wanted, digest) > (:repository, :wanted, :digest)
ORDER BY repository, wanted, digest LIMIT 1 OFFSET :limit - 1
""")


def page(connection: Connection, registry: str, after: Subject) -> tuple[list[Ranked], Subject | None]:
    """The tags among the next subjects of an upstream, and where to go on; None: there are no more."""
    key = {"registry": registry, "repository": after[0], "wanted": after[1], "digest": after[2], "limit": PAGE}
    last = connection.execute(_LAST, key).one_or_none()
    rows = connection.execute(_PAGE, key).all()
    found = [(uses, at, name, tag) for name, tag, _, uses, at in rows if tag and ":" not in tag]
    return found, None if last is None else (last[0], last[1], last[2])
