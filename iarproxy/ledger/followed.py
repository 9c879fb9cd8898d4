"""Followed tags: what upstream last offered for a tag that policy does not pin.

Rule 1: no promise is made about a followed tag, so its row is mutable and not journaled.
Rule 2: a row that fails its checksum is nothing: upstream is asked again.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert, select

from iarproxy.ledger.rows import FOLLOWED, TAG, is_intact, sealed, tag_key, where
from iarproxy.ledger.values import to_text
from iarproxy.oci import Descriptor, Digest, Repository, TagReference

_ROW = select(FOLLOWED).where(*where(FOLLOWED, *TAG))
_WITHIN = select(FOLLOWED).where(*where(FOLLOWED, "registry", "repository"))
_REPLACE = insert(FOLLOWED).prefix_with("OR REPLACE")


def read(connection: Connection, reference: TagReference) -> tuple[Descriptor, datetime] | None:
    """What the tag was last seen to offer, and when."""
    row = connection.execute(_ROW, tag_key(reference)).one_or_none()
    if row is None or not is_intact(FOLLOWED, row):
        return None
    return Descriptor(row.media_type, Digest.parse(row.digest), row.size), datetime.fromisoformat(row.fetched_at)


def write(connection: Connection, reference: TagReference, descriptor: Descriptor, at: datetime) -> None:
    """Keep what the tag offers `at` this moment."""
    row = {
        **tag_key(reference),
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type,
        "size": descriptor.size,
        "fetched_at": to_text(at),
    }
    connection.execute(_REPLACE, sealed(FOLLOWED, row))


def tags(connection: Connection, repository: Repository) -> list[str]:
    """The tags of `repository` that are followed."""
    rows = connection.execute(_WITHIN, {"registry": repository.registry, "repository": repository.name})
    return [row.tag for row in rows if is_intact(FOLLOWED, row)]
