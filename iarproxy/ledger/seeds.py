"""Seeds: the digest that a lock file expects for a tag, before the tag is pinned.

Rule 1: a seed is a person's word, so it is a journal entry and nothing else: the newest one about a name counts. An
        index over these entries makes them quick to find; there is no second copy that could disagree.
Rule 2: an entry that fails its hash is `LedgerDamaged` for its tag, never "no seed".
Rule 3: an import is one transaction, with an entry for each name whose seed changes: no line grows with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, func, select, text, tuple_

from iarproxy.errors import LedgerDamaged, Malformed
from iarproxy.ledger.journal import Entry, of_names
from iarproxy.ledger.pins import insist_reason
from iarproxy.ledger.rows import JOURNAL, NAME, key_of, newest_of, several, where
from iarproxy.ledger.transaction import Part, Transaction
from iarproxy.ledger.values import EventKind, Name
from iarproxy.oci import Digest, TagReference

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

_AT_ONCE = 50_000  # seeds in one transaction
_LONG = 120.0  # seconds that an import may take
_PAGE = 500

STEP = (
    (
        "CREATE INDEX journal_seeds ON journal (environment, registry, repository, tag, serial) "
        "WHERE kind IN ('seeded', 'unseeded')"
    ),
)
_IS_SEED = text("journal.kind IN ('seeded', 'unseeded')")  # no parameters: SQLite finds its partial index by this
_NAMES = tuple(JOURNAL.c[name] for name in NAME)
_NEWEST = select(JOURNAL).where(_IS_SEED, *where(JOURNAL, *NAME)).order_by(JOURNAL.c.serial.desc()).limit(1)
_NEWESTS = newest_of(JOURNAL, "serial", NAME, "newest.kind IN ('seeded', 'unseeded')")
_SERIALS = (
    select(func.max(JOURNAL.c.serial))
    .where(_IS_SEED, tuple_(*_NAMES) > tuple_(*(bindparam(name) for name in NAME)))
    .group_by(*_NAMES)
    .order_by(*_NAMES)
    .limit(bindparam("limit"))
)
_ENTRIES = select(JOURNAL).where(JOURNAL.c.serial.in_(_SERIALS)).order_by(*_NAMES)


@dataclass(frozen=True, slots=True)
class Seed:
    """What a tag is expected to be; `at`, `actor` and `reason` are those of the act that said so."""

    name: Name
    digest: Digest
    at: datetime
    actor: str
    reason: str


def expected(connection: Connection, name: Name) -> Digest | None:
    """The digest that the name is seeded with; None: it is not.

    Raises:
        LedgerDamaged: the entry fails its hash.
    """
    row = connection.execute(_NEWEST, key_of(name)).one_or_none()
    seed = None if row is None else _seed(Entry(*row))
    return None if seed is None else seed.digest


class Seeds:
    """The seeds of all environments."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def put(self, seeds: Sequence[tuple[str, TagReference, Digest]], *, reason: str, actor: str) -> list[Seed]:
        """A person's act: expect these digests (environment, tag, digest), in place of what was expected for each tag.

        Those that are new, in one transaction; for the others nothing happens. A tag that is pinned stays pinned.

        Raises:
            Malformed: without a reason or an actor, with two digests for one tag, or with more than 50,000.
            LedgerDamaged, LedgerUnavailable: as `PinSet.pin_of`; then nothing is changed.
        """
        wanted = {Name(environment, reference): digest for environment, reference, digest in seeds}
        if len(wanted) != len(set(seeds)):
            raise Malformed("a tag is expected to be two digests; write one")
        return await self._shared.thread.write(partial(_put, wanted=wanted, reason=reason, actor=actor), deadline=_LONG)

    async def drop(self, names: Iterable[Name], *, reason: str, actor: str) -> list[Name]:
        """A person's act: expect nothing for these names; those that were seeded.

        Raises:
            Malformed, LedgerDamaged, LedgerUnavailable: as `put`.
        """
        unwanted = list(dict.fromkeys(names))
        return await self._shared.thread.write(
            partial(_drop, names=unwanted, reason=reason, actor=actor), deadline=_LONG
        )

    async def of(self, environment: str, reference: TagReference) -> Digest | None:
        """The digest that a tag is seeded with; raises as `PinSet.pin_of`."""
        return await self._shared.thread.read(partial(expected, name=Name(environment, reference)))

    async def every(self, environment: str | None = None) -> list[Seed]:
        """The seeds of an environment, or all, by name.

        Raises:
            LedgerDamaged: one of them fails its hash.
        """
        found: list[Seed] = []
        last: tuple[str, ...] | None = ("", "", "", "")
        while last is not None:
            seeds, last = await self._shared.thread.read(partial(_page, after=last))
            found += seeds
        return [each for each in found if environment in (None, each.name.environment)]


def _put(tx: Transaction, wanted: dict[Name, Digest], reason: str, actor: str) -> list[Seed]:
    _insist(len(wanted), reason, actor)
    before = _expected(tx.connection, list(wanted))
    fresh = {name: digest for name, digest in wanted.items() if before[name] != digest}
    parts = [Part(name, _body(digest, before[name])) for name, digest in fresh.items()]
    entries = tx.append_all(EventKind.SEEDED, parts, reason=reason, actor=actor)
    return [
        Seed(name, digest, datetime.fromisoformat(entry.at), entry.actor, entry.reason)
        for (name, digest), entry in zip(fresh.items(), entries, strict=True)
    ]


def _drop(tx: Transaction, names: list[Name], reason: str, actor: str) -> list[Name]:
    _insist(len(names), reason, actor)
    before = _expected(tx.connection, names)
    dropped = [name for name in names if before[name] is not None]
    parts = [Part(name, _body(None, before[name])) for name in dropped]
    tx.append_all(EventKind.UNSEEDED, parts, reason=reason, actor=actor)
    return dropped


def _expected(connection: Connection, names: Sequence[Name]) -> dict[Name, Digest | None]:
    """As `expected` for each of many names; raises as that."""
    found: dict[Name, Digest | None] = dict.fromkeys(names)
    for some in several(names):
        entries = of_names(connection, _NEWESTS, some)
        for name in some:
            entry = entries.get(tuple(key_of(name).values()))
            seed = None if entry is None else _seed(entry)
            found[name] = None if seed is None else seed.digest
    return found


def _body(digest: Digest | None, before: Digest | None) -> dict[str, Any]:
    return {"digest": None if digest is None else str(digest), "previous": None if before is None else str(before)}


def _insist(count: int, reason: str, actor: str) -> None:
    insist_reason(reason, actor)
    if count > _AT_ONCE:
        raise Malformed(f"{count} seeds at once; import at most {_AT_ONCE}, and the rest after that")


def _page(connection: Connection, after: tuple[str, ...]) -> tuple[list[Seed], tuple[str, ...] | None]:
    """The seeds among the next names after `after`, and where to go on; None: the end."""
    rows = connection.execute(_ENTRIES, {**dict(zip(NAME, after, strict=True)), "limit": _PAGE}).all()
    entries = [Entry(*row) for row in rows]
    seeds = [seed for seed in map(_seed, entries) if seed is not None]
    if len(entries) < _PAGE:
        return seeds, None
    return seeds, tuple(str(getattr(entries[-1], name)) for name in NAME)


def _seed(entry: Entry) -> Seed | None:
    """What the newest entry about a name says."""
    if not entry.is_intact() or entry.name is None:
        raise LedgerDamaged(
            f"journal entry {entry.serial}, which says what {entry.registry}/{entry.repository}:{entry.tag} is expected"
            " to be, fails its hash; run `iarproxy ledger verify`, then `iarproxy ledger rebuild`"
        )
    if entry.kind == EventKind.UNSEEDED:
        return None
    digest = Digest.parse(entry.document()["digest"])
    return Seed(entry.name, digest, datetime.fromisoformat(entry.at), entry.actor, entry.reason)
