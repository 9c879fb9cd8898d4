"""Links: which repository may hand out which content (design invariant 10, threats T49).

Rule 1: a link is added, never taken away; adding it twice is adding it once.
Rule 2: a row that fails its checksum is no link: the next fetch through the repository makes it anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    insert_all(connection, rows_of({repository: digests}))


def rows_of(linked: Mapping[Repository, Iterable[Digest]]) -> list[dict[str, Any]]:
    """The rows that let each of the repositories hand out its digests, to be made before the ledger is locked."""
    return [_row(repository, digest) for repository, digests in linked.items() for digest in digests]


def insert_all(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert those of `rows` that are not there."""
    for some in several(rows):
        _LINK(connection, some)


def _row(repository: Repository, digest: Digest) -> dict[str, Any]:
    return sealed(LINKS, {"registry": repository.registry, "repository": repository.name, "digest": str(digest)})


def is_linked(connection: Connection, repository: Repository, digest: Digest) -> bool:
    """Whether `repository` may hand out `digest`."""
    key = {"registry": repository.registry, "repository": repository.name, "digest": str(digest)}
    row = connection.execute(_ROW, key).one_or_none()
    return row is not None and is_intact(LINKS, row)
