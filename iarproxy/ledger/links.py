"""Links: which repository may hand out which content (design invariant 10, threats T49).

Rule 1: a link is added, never taken away; adding it twice is adding it once.
Rule 2: a row that fails its checksum is no link: the next fetch through the repository makes it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from iarproxy.ledger.rows import LINKS, for_each, is_intact, sealed, several, where
from iarproxy.oci import Digest, Repository

_ROW = select(LINKS).where(*where(LINKS, "registry", "repository", "digest"))
_WANTED = insert(LINKS)
_LINK = for_each(  # most links of a bundle are there already: a row that is as it should be is not written again
    _WANTED.on_conflict_do_update(
        index_elements=["registry", "repository", "digest"],
        set_={"checksum": _WANTED.excluded.checksum},
        where=LINKS.c.checksum != _WANTED.excluded.checksum,
    )
)


def link(connection: Connection, repository: Repository, digests: Iterable[Digest]) -> None:
    """Let `repository` hand out `digests`."""
    link_all(connection, {repository: tuple(digests)})


def link_all(connection: Connection, linked: Mapping[Repository, Collection[Digest]]) -> None:
    """Let each of the repositories hand out its digests."""
    pairs = [(repository, digest) for repository, digests in linked.items() for digest in digests]
    for some in several(pairs):
        _LINK(connection, [_row(repository, digest) for repository, digest in some])


def _row(repository: Repository, digest: Digest) -> dict[str, Any]:
    return sealed(LINKS, {"registry": repository.registry, "repository": repository.name, "digest": str(digest)})


def is_linked(connection: Connection, repository: Repository, digest: Digest) -> bool:
    """Whether `repository` may hand out `digest`."""
    key = {"registry": repository.registry, "repository": repository.name, "digest": str(digest)}
    row = connection.execute(_ROW, key).one_or_none()
    return row is not None and is_intact(LINKS, row)
