"""Making checkpoints, so that nobody can tell the journal's history in another way later; and proofs to go with them.

Rule 1: the tree's leaf for an entry is the entry's hash, as 32 bytes. The hash covers the whole line (`journal`, rule
        1), so a root covers every byte of the journal; and roots are made, and proofs taken, from one short column.
Rule 2: no checkpoint is made over a history that disagrees with the last one. What was signed once is either continued
        or the journal is damaged.
Rule 3: entries are read a page at a time, and hashed for checkpoints once per process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from iarproxy.errors import LedgerDamaged, Malformed, Refused
from iarproxy.ledger import journal, schema
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.proof import checkpoint_rows, keyring
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.keyring import Keyring, origin_of
from iarproxy.ledger.proof.keys import KeyFile, Signers
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind, Name
from iarproxy.trust.merkle import EMPTY, HASH_SIZE, Range, Tree, consistency_ranges, inclusion_ranges, leaf_hash
from iarproxy.trust.note import Checkpoint, Note

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

_PAGE = 250  # entries hashed at a time, on the loop: about a millisecond
_PATIENCE = 1.0  # seconds to wait for another rotation of the key
_TRIED = 20  # damaged checkpoints to pass over
_MAX_REASON = 4096  # characters
_SELF = "iarproxy"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the journal is signed. `last`: its newest checkpoint that can be read; None: there is none."""

    head: Head
    last: SignedCheckpoint | None
    ring: Keyring

    @property
    def is_rotating(self) -> bool:
        """Whether no checkpoint covers yet how the present key came."""
        return self.ring.current is not None and self.ring.current.serial > (self.last.size if self.last else 0)


def standing(connection: Connection) -> Standing:
    """How far the journal is signed.

    Raises:
        LedgerDamaged: its end or its keys cannot be read.
    """
    return Standing(journal.last(connection), checkpoint_rows.last(connection), ring(connection))


def ring(connection: Connection) -> Keyring:
    """The keys that the journal names.

    Raises:
        LedgerDamaged: one of the entries cannot be read.
    """
    origin = origin_of(schema.read_meta(connection, "store"))
    return Keyring.of(origin, journal.keyed(connection))


def leaf_of(digest: str) -> bytes | None:
    """The leaf hash of the entry of that hash (rule 1); None: it is no hash."""
    try:
        raw = bytes.fromhex(digest)
    except ValueError:
        return None
    return leaf_hash(raw) if len(raw) == HASH_SIZE else None


class Checkpoints:
    """The checkpoints of one ledger."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._tree = Tree()
        self._turn = asyncio.Lock()

    async def standing(self) -> Standing:
        """How far the journal is signed."""
        return await self._shared.thread.read(standing)

    async def ring(self) -> Keyring:
        """The keys that the journal names."""
        return await self._shared.thread.read(ring)

    async def keyed(self) -> list[Entry]:
        """The entries that name its keys, in order, as stored."""
        return await self._shared.thread.read(journal.keyed)

    async def pinnings(self, name: Name) -> list[Entry]:
        """The entries that made or took away the pins of a name, by revision, as stored."""
        return await self._shared.thread.read(partial(journal.pinnings, name=name))

    async def covering(self, size: int) -> SignedCheckpoint | None:
        """The smallest readable checkpoint of at least `size` entries; None: there is none."""
        rows = await self._shared.thread.read(partial(checkpoint_rows.rows_after, size=size - 1, limit=_TRIED))
        return next((found for _, found in rows if found is not None), None)

    async def make(self, file: KeyFile) -> SignedCheckpoint | None:
        """A checkpoint of the journal as it is now; None: the last one covers it. The first one makes the key.

        Raises:
            Refused: the key cannot be used.
            LedgerDamaged: the journal disagrees with its last checkpoint.
        """
        async with self._turn:
            now = await self._keyed(file)
            before = 0 if now.last is None else now.last.size
            if before >= now.head.serial:
                return None
            signers = await asyncio.to_thread(file.signers, now.ring, both=now.is_rotating)
            await self._grow(now)
            return await self._kept(file, now, signers)

    async def rotate(self, file: KeyFile, *, lost: bool, reason: str, actor: str) -> SignedCheckpoint:
        """A person's act: another key signs from now on; the first checkpoint that both sign, or the new one alone.

        Raises:
            Refused: the old key cannot be used, or is said to be lost and is not.
            Malformed: without a reason or an actor.
        """
        if not reason.strip() or not actor.strip() or len(reason) > _MAX_REASON:
            raise Malformed(f"a rotation needs a reason (at most {_MAX_REASON} characters) and an actor")
        lock = await asyncio.to_thread(FileLock, file.path.with_name(f"{file.path.name}.lock"))
        try:
            with lock.held(patience=_PATIENCE):
                await self._rotate(file, lost=lost, reason=reason, actor=actor)
                made = await self.make(file)
        finally:
            lock.close()
        if made is None:  # another process was quicker
            made = (await self.standing()).last
        if made is None:
            raise LedgerDamaged("the checkpoint after the rotation cannot be read; run `iarproxy journal verify`")
        return made

    async def take_back(self, copies: Sequence[SignedCheckpoint]) -> int:
        """Keep the copies that are newer than the table's last and hold; how many. For a table that was lost.

        Raises:
            LedgerDamaged: a copy that the journal's key signed disagrees with the journal.
        """
        async with self._turn:
            now = await self.standing()
            before = 0 if now.last is None else now.last.size
            newer = {
                each.size: each for each in copies if before < each.size <= now.head.serial and _is_ours(each, now)
            }
            tree = Tree()
            for size, copy in sorted(newer.items()):
                await self._fill(tree, size)
                if tree.root() != copy.checkpoint.root:
                    raise LedgerDamaged(f"the journal is not what a copy of its checkpoint of {size} entries says")
            for size in sorted(newer):
                await self._shared.thread.write(partial(checkpoint_rows.append, made=newer[size]))
            return len(newer)

    async def insist(self, copies: Sequence[SignedCheckpoint], where: str) -> None:
        """Return if the journal continues the largest of `copies` that is one of its own, by its origin.

        Raises:
            LedgerDamaged: it does not: it was restored from older copies, or made anew.
        """
        now = await self.standing()
        own = [each for each in copies if each.checkpoint.origin == now.ring.origin]
        newest = max(own, key=lambda each: each.size, default=None)
        if newest is None:
            return
        size, way_out = newest.size, f"see `iarproxy journal verify`; once {where} is moved away, it is signed as it is"
        if size > now.head.serial:
            raise LedgerDamaged(
                f"the journal has {now.head.serial} entries, and a checkpoint of {size} left this machine: {way_out}"
            )
        tree = Tree()
        await self._fill(tree, size)
        if tree.root() != newest.checkpoint.root:
            raise LedgerDamaged(
                f"the journal is not the one whose checkpoint of {size} entries left this machine: {way_out}"
            )

    async def inclusion(self, serials: Sequence[int], size: int) -> tuple[bytes, list[list[bytes]]]:
        """The root of the first `size` entries, and for each of `serials` the proof that it is among them.

        Raises:
            Malformed: there are not so many entries.
        """
        return await self.proofs([inclusion_ranges(serial - 1, size) for serial in serials], size)

    async def proofs(self, wanted: Sequence[Sequence[Range]], size: int) -> tuple[bytes, list[list[bytes]]]:
        """The root of the first `size` entries, and the hashes that each of several proofs wants of them.

        Raises:
            Malformed: there are not so many entries.
        """
        tree = Tree(each for ranges in wanted for each in ranges)
        await self._fill(tree, size)
        return tree.root(), [tree.hashes(ranges) for ranges in wanted]

    async def consistency(self, old: int, new: int) -> tuple[bytes, bytes, list[bytes]]:
        """The roots of the first `old` and `new` entries, and the proof that the latter continue the former.

        Raises:
            Malformed: there are not so many entries.
        """
        wanted = consistency_ranges(old, new)
        tree = Tree([*wanted, *([Range(0, old)] if old else [])])
        await self._fill(tree, new)
        first = tree.hashes([Range(0, old)])[0] if old else EMPTY
        return first, tree.root(), tree.hashes(wanted)

    async def _keyed(self, file: KeyFile) -> Standing:
        """How far the journal is signed, once it names a key."""
        now = await self.standing()
        if now.ring.current is not None:
            return now
        key = await asyncio.to_thread(file.first, now.ring.origin)

        def name(tx: Transaction) -> None:
            if ring(tx.connection).current is None:
                tx.append(EventKind.KEYED, None, actor=_SELF, body=keyring.first(key.verifier))

        await self._shared.thread.write(name)
        return await self.standing()

    async def _rotate(self, file: KeyFile, *, lost: bool, reason: str, actor: str) -> None:
        if not lost:
            await self.make(file)  # of all that the old key answers for; and what a rotation before left open
        now = await self.standing()
        old = now.ring.current
        if old is None:
            raise Refused("the journal names no key yet: the first checkpoint makes one; nothing can be lost")
        body = await asyncio.to_thread(_succession, file, now, lost=lost)

        def name(tx: Transaction) -> None:
            if ring(tx.connection).current != old:
                raise Refused("another process rotated the key meanwhile; look at `iarproxy journal keys`")
            tx.append(EventKind.KEYED, None, actor=actor, reason=reason, body=body)

        await self._shared.thread.write(name)

    async def _kept(self, file: KeyFile, now: Standing, signers: Signers) -> SignedCheckpoint | None:
        checkpoint = Checkpoint(now.ring.origin, self._tree.size, self._tree.root())
        signed = SignedCheckpoint(Note.signed(checkpoint.text(), signers.keys), checkpoint)
        made = await self._shared.thread.write(partial(checkpoint_rows.append, made=signed))
        if signers.settles:
            await asyncio.to_thread(file.settle, keeps=signers.keeps)
        return made

    async def _grow(self, now: Standing) -> None:
        """Bring the tree up to the journal's end, past the last checkpoint (rule 2)."""
        last = now.last
        if last is not None and self._tree.size <= last.size:
            await self._fill(self._tree, last.size)
            if self._tree.root() != last.checkpoint.root:
                self._tree = Tree()
                raise LedgerDamaged(
                    f"the journal is not the one that its checkpoint of {last.size} entries was made of; run "
                    "`iarproxy journal verify`"
                )
        await self._fill(self._tree, now.head.serial)

    async def _fill(self, tree: Tree, size: int) -> None:
        """Add leaves to `tree` until it has `size`."""
        while tree.size < size:
            limit = min(_PAGE, size - tree.size)
            page = await self._shared.thread.read(partial(journal.hashes_after, serial=tree.size, limit=limit))
            if not page:
                raise Malformed(f"the journal has {tree.size} entries, not {size}")
            for serial, digest in page:
                leaf = leaf_of(digest)
                if serial != tree.size + 1 or leaf is None:
                    raise LedgerDamaged(f"journal entry {tree.size + 1} is missing or damaged")
                tree.append(leaf)


def _is_ours(copy: SignedCheckpoint, now: Standing) -> bool:
    """Whether a key of this journal signed it."""
    try:
        return copy.checkpoint.origin == now.ring.origin and bool(copy.note.signers(now.ring.verifiers()))
    except Malformed:
        return False


def _succession(file: KeyFile, now: Standing, *, lost: bool) -> dict[str, Any]:
    """The body of the entry by which the next key comes, which is durable then."""
    current, origin = now.ring.current, now.ring.origin
    if current is None:
        raise Refused("the journal names no key yet")
    if not lost:
        old = file.signers(now.ring, both=False).keys[0]
        return keyring.rotated(origin, old, file.prepare(origin).verifier)
    try:
        file.signers(now.ring, both=now.is_rotating)
    except Refused:
        return keyring.lost(current.key, file.prepare(origin).verifier)
    raise Refused(f"the key {file.path} is not lost; leave --lost out, so that it signs for its successor")
