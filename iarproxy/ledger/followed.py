"""Followed tags: what upstream last offered for a tag that policy does not pin.

Rule 1: no promise is made about a followed tag, so its row is mutable and not journaled.
Rule 2: a row that fails its checksum is nothing: upstream is asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, insert, select, tuple_

from iarproxy.ledger.rows import FOLLOWED, TAG, for_each, is_intact, sealed, several, sought, tag_key, those_of, where
from iarproxy.ledger.values import to_text
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference

Key: TypeAlias = tuple[str, str, str]  # registry, repository, tag

_ROW = select(FOLLOWED).where(*where(FOLLOWED, *TAG))
_WITHIN = select(FOLLOWED).where(*where(FOLLOWED, "registry", "repository"))
_TAG = [FOLLOWED.c[name] for name in TAG]
_PAGE = (
    select(FOLLOWED)
    .where(tuple_(*_TAG) > tuple_(*(bindparam(name) for name in TAG)))
    .order_by(*_TAG)
    .limit(bindparam("limit"))
)
_ROWS = those_of(FOLLOWED, TAG)
_REPLACE = for_each(insert(FOLLOWED).prefix_with("OR REPLACE"))


def read(connection: Connection, reference: TagReference) -> tuple[Descriptor, datetime] | None:
    """What the tag was last seen to offer, and when."""
    row = connection.execute(_ROW, tag_key(reference)).one_or_none()
    if row is None or not is_intact(FOLLOWED, row):
        return None
    return Descriptor(row.media_type, Digest.parse(row.digest), row.size), datetime.fromisoformat(row.fetched_at)


def digests(connection: Connection, references: Sequence[TagReference]) -> dict[TagReference, Digest]:
    """What each of these tags was last seen to offer, of those that are known."""
    found = {}
    for some in several(references):
        for row in connection.execute(_ROWS, sought(map(tag_key, some))).all():
            if is_intact(FOLLOWED, row):
                reference = TagReference(Repository(row.registry, row.repository), Tag(row.tag))
                found[reference] = Digest.parse(row.digest)
    return found


def page(connection: Connection, after: Key, limit: int) -> tuple[list[tuple[TagReference, Digest]], Key | None]:
    """What the `limit` followed tags behind `after` were last seen to offer, and where to go on; None: that was all."""
    rows = connection.execute(_PAGE, {**dict(zip(TAG, after, strict=True)), "limit": limit}).all()
    found = [
        (TagReference(Repository(row.registry, row.repository), Tag(row.tag)), Digest.parse(row.digest))
        for row in rows
        if is_intact(FOLLOWED, row)
    ]
    last = rows[-1] if len(rows) == limit else None
    return found, None if last is None else (last.registry, last.repository, last.tag)


def write(connection: Connection, reference: TagReference, descriptor: Descriptor, at: datetime) -> None:
    """Keep what the tag offers `at` this moment."""
    write_all(connection, [(reference, descriptor)], at)


def write_all(connection: Connection, found: Sequence[tuple[TagReference, Descriptor]], at: datetime) -> None:
    """Keep what each of these tags offers `at` this moment."""
    for some in several(found):
        _REPLACE(connection, [sealed(FOLLOWED, _row(reference, descriptor, at)) for reference, descriptor in some])


def _row(reference: TagReference, descriptor: Descriptor, at: datetime) -> dict[str, Any]:
    return {
        **tag_key(reference),
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type,
        "size": descriptor.size,
        "fetched_at": to_text(at),
    }


def tags(connection: Connection, repository: Repository) -> list[str]:
    """The tags of `repository` that are followed."""
    rows = connection.execute(_WITHIN, {"registry": repository.registry, "repository": repository.name})
    return [row.tag for row in rows if is_intact(FOLLOWED, row)]
