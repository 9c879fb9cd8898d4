"""Uses: what was given to whom, how often and when. Observations: nothing is served or refused because of them.

Rule 1: a row for each repository, tag or digest asked for, digest given, and client; blobs, whose rows would multiply
        by the clients, have one for each repository and digest. What names the row is kept once, in `subjects`.
Rule 2: rows merge (earliest, latest, sum), so that neither the order nor the grouping of what is recorded matters.
Rule 3: the rows that were used the longest ago leave first, above a number of rows and beyond an age.
Rule 4: a row's checksum covers the names in `subjects` too. A row that fails it is nothing: the next use makes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeAlias, assert_never

from sqlalchemy import Connection, Select, and_, bindparam, column, delete, exists, func, insert, select, table

from iarproxy.errors import IarproxyError
from iarproxy.ledger.rows import checksum, is_sealed, where
from iarproxy.ledger.usage import uses_latest
from iarproxy.ledger.values import NotUsed, Use, Used
from iarproxy.oci import Digest, DigestReference, Reference, Repository, TagReference
from iarproxy.oci.reference import parse_tag_or_digest

Key: TypeAlias = tuple[str, str, str, str, str]  # registry, repository, wanted, digest, client; "" for what is left out

_SUBJECT = ("registry", "repository", "wanted", "digest")
_NAMES = (*_SUBJECT, "client")
_VALUES = ("first_at", "last_at", "count", "checksum")

STEPS = (
    (
        """
CREATE TABLE subjects (
  id INTEGER PRIMARY KEY,
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  wanted TEXT NOT NULL, -- the tag or digest of a manifest; empty: a blob
  digest TEXT NOT NULL,
  UNIQUE (registry, repository, wanted, digest)
) STRICT
""",
        """
CREATE TABLE uses (
  subject INTEGER NOT NULL,
  client TEXT NOT NULL, -- empty: not recorded
  first_at INTEGER NOT NULL, -- seconds since 1970
  last_at INTEGER NOT NULL,
  count INTEGER NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (subject, client)
) STRICT, WITHOUT ROWID
""",
        "CREATE INDEX subjects_by_digest ON subjects (digest)",
        "CREATE INDEX uses_by_last ON uses (last_at)",
    ),
    uses_latest.STEP,
)
STAGE = f"CREATE TEMP TABLE staged ({', '.join(_NAMES)})"  # of each connection that records

_SUBJECTS = table("subjects", *map(column, ("id", *_SUBJECT)))
_USES = table("uses", *map(column, ("subject", "client", *_VALUES)))
_STAGED = table("staged", *map(column, _NAMES))

# With many rows at once the driver itself takes a third less time than through SQLAlchemy's named parameters.
_FILL = "INSERT INTO staged VALUES (?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO uses VALUES (?, ?, ?, ?, ?, ?)"
_CLEAR = delete(_STAGED)
_NAME = (
    insert(_SUBJECTS)
    .prefix_with("OR IGNORE")
    .from_select(_SUBJECT, select(*(_STAGED.c[name] for name in _SUBJECT)).distinct())
)
_KNOWN = select(
    *(_STAGED.c[name] for name in _NAMES), *(_USES.c[name] for name in _VALUES), _SUBJECTS.c.id.label("subject")
).select_from(
    _STAGED.join(_SUBJECTS, and_(*(_SUBJECTS.c[name] == _STAGED.c[name] for name in _SUBJECT))).outerjoin(
        _USES, and_(_USES.c.subject == _SUBJECTS.c.id, _USES.c.client == _STAGED.c.client)
    )
)

_ALL = select(*(_SUBJECTS.c[name] for name in _SUBJECT), *(_USES.c[name] for name in ("client", *_VALUES))).select_from(
    _SUBJECTS.join(_USES, _USES.c.subject == _SUBJECTS.c.id)
)
_NEWEST = _ALL.where(_USES.c.last_at >= bindparam("since")).order_by(_USES.c.last_at.desc(), _USES.c.client)
_OF_TAG = _NEWEST.where(*where(_SUBJECTS, "registry", "repository", "wanted"))
_OF_CONTENT = _NEWEST.where(*where(_SUBJECTS, "registry", "repository", "digest"))
_OF_DIGEST = _NEWEST.where(*where(_SUBJECTS, "digest"))

_MANIFESTS = (
    select(_SUBJECTS.c.digest)
    .distinct()
    .where(_SUBJECTS.c.wanted != "", _SUBJECTS.c.digest > bindparam("after"))
    .order_by(_SUBJECTS.c.digest)
    .limit(bindparam("limit"))
)

_COUNT = select(func.count()).select_from(_USES)
_OLDEST = select(_USES.c.subject, _USES.c.client, _USES.c.last_at).order_by(_USES.c.last_at).limit(bindparam("limit"))
_EXPIRED = _OLDEST.where(_USES.c.last_at < bindparam("since"))
_FORGET = delete(_USES).where(_USES.c.subject == bindparam("of"), _USES.c.client == bindparam("by"))
_ORPHANED = delete(_SUBJECTS).where(
    _SUBJECTS.c.id == bindparam("of"), ~exists().where(_USES.c.subject == _SUBJECTS.c.id)
)


def record(connection: Connection, uses: Sequence[Use]) -> int:
    """Merge `uses` into the table; how many rows are new."""
    fresh: dict[Key, Use] = {}
    for use in uses:
        key = _key(use)
        fresh[key] = use.merged(fresh[key]) if key in fresh else use
    connection.execute(_CLEAR)
    connection.exec_driver_sql(_FILL, list(fresh))
    connection.execute(_NAME)
    known = connection.execute(_KNOWN).all()
    connection.exec_driver_sql(_REPLACE, [_row(each, fresh[tuple(each[:5])]) for each in known])
    return sum(each.checksum is None for each in known)


def newest(connection: Connection, what: Reference | Digest, since: int, limit: int) -> list[Use]:
    """The `limit` uses of a tag, of content in a repository, or of content anywhere, that are `since` or later."""
    return list(islice(_intact(connection, what, since), limit))


def summary(connection: Connection, what: Reference | Digest, since: int, shown: int) -> Used | NotUsed:
    """All such uses at once, with the `shown` newest of them."""
    found = list(_intact(connection, what, since))
    if not found:
        return NotUsed()
    clients = {use.client for use in found} - {None}
    first, count = min(use.first for use in found), sum(use.count for use in found)
    return Used(first, found[0].last, count, len(clients), tuple(found[:shown]))


def manifests(connection: Connection, after: str, limit: int) -> list[str]:
    """At most `limit` digests of manifests that were given to anybody, in order, from behind `after` on."""
    return list(connection.execute(_MANIFESTS, {"after": after, "limit": limit}).scalars())


def expire(connection: Connection, since: int, limit: int) -> int:
    """Forget at most `limit` rows that were last used before `since`; how many."""
    return _forget(connection, connection.execute(_EXPIRED, {"since": since, "limit": limit}).all())


def trim(connection: Connection, bound: int) -> None:
    """Forget the rows that were used the longest ago, down to `bound` rows."""
    over = connection.execute(_COUNT).scalar_one() - bound
    if over > 0:
        rows = connection.execute(_OLDEST, {"limit": over}).all()
        uses_latest.left(connection, max(row.last_at for row in rows))
        _forget(connection, rows)


def damaged_rows(connection: Connection) -> int:
    """How many rows fail their checksum."""
    return sum(not is_sealed("uses", row) for row in connection.execute(_ALL))


def _forget(connection: Connection, rows: Sequence[Any]) -> int:
    if rows:
        connection.execute(_FORGET, [{"of": row.subject, "by": row.client} for row in rows])
        connection.execute(_ORPHANED, [{"of": each} for each in {row.subject for row in rows}])
    return len(rows)


def _key(use: Use) -> Key:
    repository, wanted = use.repository, "" if use.wanted is None else str(use.wanted)
    return repository.registry, repository.name, wanted, str(use.digest), use.client or ""


def _row(known: Any, use: Use) -> tuple[Any, ...]:
    """The row after `use`, in the table's order; `known`: names, the row before or NULLs, subject."""
    *names, first_at, last_at, counted, seal, subject = known
    first, last, count = _seconds(use.first), _seconds(use.last), use.count
    if seal is not None and is_sealed("uses", known[:-1]):
        first, last, count = min(first, first_at), max(last, last_at), count + counted
    return subject, use.client or "", first, last, count, checksum("uses", (*names, first, last, count))


def _intact(connection: Connection, what: Reference | Digest, since: int) -> Iterator[Use]:
    statement, parameters = _about(what)
    for row in connection.execute(statement, {**parameters, "since": since}):
        if is_sealed("uses", row):
            try:
                yield _value(row)
            except IarproxyError:  # names that an older iarproxy took and this one does not
                continue


def _about(what: Reference | Digest) -> tuple[Select[Any], dict[str, str]]:
    match what:
        case TagReference(repository=within, tag=tag):
            return _OF_TAG, {"registry": within.registry, "repository": within.name, "wanted": tag.value}
        case DigestReference(repository=within, digest=digest):
            return _OF_CONTENT, {"registry": within.registry, "repository": within.name, "digest": str(digest)}
        case Digest():
            return _OF_DIGEST, {"digest": str(what)}
        case _:
            assert_never(what)


def _value(row: Any) -> Use:
    return Use(
        repository=Repository(row.registry, row.repository),
        wanted=parse_tag_or_digest(row.wanted) if row.wanted else None,
        digest=Digest.parse(row.digest),
        client=row.client or None,
        first=datetime.fromtimestamp(row.first_at, UTC),
        last=datetime.fromtimestamp(row.last_at, UTC),
        count=row.count,
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
