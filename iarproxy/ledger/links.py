"""Links: which repository may hand out which content (design invariant 10, threats T49).

Rule 1: a link is added, never taken away; adding it twice is adding it once.
Rule 2: a row that fails its checksum is no link: the next fetch through the repository makes it anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, insert, select

from iarproxy.ledger.rows import LINKS, is_intact, sealed, where
from iarproxy.oci import Digest, Repository

_ROW = select(LINKS).where(*where(LINKS, "registry", "repository", "digest"))
_REPLACE = insert(LINKS).prefix_with("OR REPLACE")


def link(connection: Connection, repository: Repository, digests: Iterable[Digest]) -> None:
    """Let `repository` hand out `digests`."""
    names = {"registry": repository.registry, "repository": repository.name}
    rows = [sealed(LINKS, {**names, "digest": str(digest)}) for digest in digests]
    if rows:
        connection.execute(_REPLACE, rows)


def is_linked(connection: Connection, repository: Repository, digest: Digest) -> bool:
    """Whether `repository` may hand out `digest`."""
    key = {"registry": repository.registry, "repository": repository.name, "digest": str(digest)}
    row = connection.execute(_ROW, key).one_or_none()
    return row is not None and is_intact(LINKS, row)
