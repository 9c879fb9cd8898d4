"""Gathering what of the journal travels with a bundle: the bytes of `journal.json`, which `evidence` reads.

Rule 1: the journal is signed as it is now, with the entry of the bundle's making in it: who signs a bundle without
        telling the journal shows.
Rule 2: sites compare with what they saw before. So the proofs are from the checkpoints that went with the last bundles
        of this origin, whatever the set, and from the one that a site's receipt names.
Rule 3: the tree is walked once, whatever the number of proofs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import orjson

from iarproxy.archive.evidence import MOST_PINS, MOST_SEEN, WHAT, pinned_by
from iarproxy.errors import LedgerDamaged, Refused
from iarproxy.ledger import DEFAULT, EventKind, Ledger
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.evidence import shown
from iarproxy.ledger.values import Name
from iarproxy.oci import TagReference
from iarproxy.oci.bundle_manifest import BundledName
from iarproxy.trust.merkle import consistency_ranges, inclusion_ranges
from iarproxy.trust.note import to_base64

_MOST_LINE = 4 * 1024  # bytes of an entry
_LOOKED = 64  # bundles that are looked at for what sites saw


@dataclass(frozen=True, slots=True)
class Subject:
    """What evidence is gathered of.

    Attributes:
        sequence: of the bundle, whose making is in the journal already.
        names: whose pins' entries travel.
        seen: how many entries of this journal the site's newest checkpoint of it covers, if a receipt says so.
    """

    set: str
    sequence: int
    names: Sequence[BundledName]
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Gathering:
    """The use case over one ledger.

    Attributes:
        sign: makes a checkpoint of the journal as it is now; None: there is one already.
    """

    ledger: Ledger
    sign: Callable[[], Awaitable[SignedCheckpoint | None]]

    async def gather(self, subject: Subject) -> bytes:
        """The bytes of `journal.json`.

        Raises:
            Refused: the journal's key cannot be used; or the site saw more of this journal than there is.
            LedgerDamaged, LedgerUnavailable: the journal cannot be read, or disagrees with its checkpoints.
        """
        made = [each for each in await self.ledger.bundles.made(subject.set) if each.sequence == subject.sequence]
        signed = await self.sign() or (await self.ledger.checkpoints.standing()).last
        if signed is None or not made or signed.size < made[-1].serial:
            raise LedgerDamaged("the newest checkpoint of the journal cannot be read; run `iarproxy journal verify`")
        if subject.seen > signed.size:
            raise Refused(
                f"the site has seen {subject.seen} entries of this journal, and it has {signed.size}: it was restored "
                "from an older copy; see `iarproxy journal verify`"
            )
        keyed = [each for each in await self.ledger.checkpoints.keyed() if each.serial <= signed.size]
        bundled = await self.ledger.reading.entries(made[-1].serial - 1, 1)
        pins, omitted = await self._pins(subject.names, signed.size)
        earlier = await self._earlier(subject.seen, signed.size)
        listed, continued = await self._proven(signed, [*keyed, *bundled, *pins], earlier)
        document = {
            "what": WHAT,
            "checkpoint": str(signed.note),
            "keys": listed[: len(keyed)],
            "bundled": listed[len(keyed)],
            "pins": listed[len(keyed) + 1 :],
            "omitted": omitted,
            "continues": continued,
        }
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)

    async def _pins(self, names: Iterable[BundledName], size: int) -> tuple[list[Entry], int]:
        """The entry that made each name what it is in the bundle, and how many there is no room for."""
        found: list[Entry] = []
        omitted = 0
        for each in names:
            if not isinstance(each.reference, TagReference):
                continue
            entries = await self.ledger.checkpoints.pinnings(Name(DEFAULT, each.reference))
            covered = [entry for entry in entries if entry.serial <= size]
            fitting = [entry for entry in covered if pinned_by(entry.event()) == each.descriptor.digest]
            if not fitting:
                continue  # policy follows it
            if len(found) < MOST_PINS and len(fitting[-1].line()) <= _MOST_LINE:
                found.append(fitting[-1])
            else:
                omitted += 1
        return found, omitted

    async def _earlier(self, seen: int, size: int) -> list[int]:
        """The sizes of checkpoints that sites may have seen (rule 2), the smallest first."""
        found = {seen} if 0 < seen < size else set()
        bundled = await self.ledger.reading.events(after=None, kind=EventKind.BUNDLED, limit=_LOOKED)
        for event in reversed(bundled):
            covering = await self.ledger.checkpoints.covering(event.serial)
            if covering is not None and covering.size < size and len(found) < MOST_SEEN:
                found.add(covering.size)
        return sorted(found)

    async def _proven(
        self, signed: SignedCheckpoint, entries: Sequence[Entry], earlier: Sequence[int]
    ) -> tuple[list[object], list[object]]:
        """Each entry with its proof, and the proof from each earlier size."""
        wanted = [inclusion_ranges(each.serial - 1, signed.size) for each in entries]
        wanted += [consistency_ranges(old, signed.size) for old in earlier]
        root, proofs = await self.ledger.checkpoints.proofs(wanted, signed.size)
        if root != signed.checkpoint.root or not all(each.is_intact() for each in entries):
            raise LedgerDamaged("the journal is not what its newest checkpoint says; run `iarproxy journal verify`")
        listed: list[object] = [shown(entry, proof) for entry, proof in zip(entries, proofs, strict=False)]
        continued: list[object] = [
            {"from": old, "hashes": list(map(to_base64, hashes))}
            for old, hashes in zip(earlier, proofs[len(entries) :], strict=True)
        ]
        return listed, continued
