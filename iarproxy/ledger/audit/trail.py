"""The audit's walk along the entries of the database: the chain, the rows they made, the tree, and what was signed.

Rule 1: a root is only compared while every leaf is known; where an entry is missing the tree ends.
Rule 2: a checkpoint that disagrees accuses the entries since the last one that agrees, unless one of these was found
        wrong already: then it is that one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sqlalchemy import Connection, func, select

from iarproxy.errors import LedgerDamaged, Malformed
from iarproxy.ledger import pins
from iarproxy.ledger.audit.findings import Findings
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.checkpoints import leaf_of
from iarproxy.ledger.proof.keyring import Keyed, Keyring
from iarproxy.ledger.rows import PINS
from iarproxy.ledger.values import EventKind
from iarproxy.trust.merkle import Tree


class Trail:
    """The entries so far, and what is compared with them.

    Attributes:
        head: the last entry.
        pins: how many revisions of pins the entries made.
        signed: how many entries the newest checkpoint that holds covers; `good`: how many checkpoints hold.
        first_signed: how many entries the oldest covers; None: there is none.
        recovered: serials of recoveries.
        unseen: from which entry on the tree is not known; None: it is.
        roots: of the sizes in `asked`, as they are.
        expected: how many entries the last checkpoint covers that was told of.
    """

    def __init__(self, origin: str, asked: Iterable[int], findings: Findings) -> None:
        self.head = Head()
        self.pins = self.good = self.signed = self.expected = 0
        self.first_signed: int | None = None
        self.ring = Keyring(origin)
        self.recovered: list[int] = []
        self.unseen: int | None = None
        self.roots: dict[int, bytes] = {0: Tree().root()}
        self._asked = frozenset(asked)
        self._findings = findings
        self._tree = Tree()
        self._stored: deque[tuple[int, SignedCheckpoint | None]] = deque()
        self._before = 0  # entries that the last checkpoint of the table covers
        self._agreed = 0  # and the last that agrees

    def expect(self, stored: Iterable[tuple[int, SignedCheckpoint | None]]) -> None:
        """The next checkpoints of the table, in order, before their entries come."""
        for size, found in stored:
            self._stored.append((size, found))
            self.expected = size

    def take(self, connection: Connection, entry: Entry) -> None:
        """The next entry of the table."""
        intact = self._chained(entry)
        self._project(connection, entry, intact=intact)
        leaf = leaf_of(entry.hash)
        if self.unseen is None and leaf is not None and entry.serial == self._tree.size + 1:
            self._tree.append(leaf)
        elif self.unseen is None:
            self.unseen = self._tree.size + 1
        self.head = entry.head
        if entry.serial in self._asked and self.unseen is None:
            self.roots[entry.serial] = self._tree.root()
        while self._stored and self._stored[0][0] <= entry.serial:
            self._signed(*self._stored.popleft())

    def end(self, connection: Connection) -> None:
        """There are no more entries."""
        counted = connection.execute(select(func.count()).select_from(PINS)).scalar_one()
        if counted != self.pins:
            self._findings.add(None, f"the journal made {self.pins} revisions of pins; the table holds {counted}")
        for serial, problem in self.ring.problems():
            self._findings.add(serial, problem)
        if self._stored:
            size = self._stored[0][0]
            self._findings.add(self.head.serial + 1, f"is missing: a checkpoint in the ledger covers {size}", size)

    def _chained(self, entry: Entry) -> bool:
        expected, intact = self.head.serial + 1, entry.is_intact()
        if entry.serial != expected:
            self._findings.add(expected, "is missing from the database", entry.serial - 1)
        elif entry.previous != self.head.hash and intact:
            self._findings.add(entry.serial, f"does not continue entry {self.head.serial}")
        if not intact:
            self._findings.add(entry.serial, "fails its hash: it was changed")
        return intact

    def _project(self, connection: Connection, entry: Entry, *, intact: bool) -> None:
        self.pins += entry.revision is not None
        if not intact:
            return
        if entry.revision is not None and not pins.is_projected(connection, entry):
            self._findings.add(entry.serial, f"the pin that it made, {entry.name}, is damaged or missing in its table")
        if entry.kind == EventKind.RECOVERED:
            self.recovered.append(entry.serial)
        if entry.kind == EventKind.KEYED:
            try:
                self.ring = Keyring(self.ring.origin, (*self.ring.keys, Keyed.of(entry)))
            except LedgerDamaged as damaged:
                self._findings.add(entry.serial, str(damaged))

    def _signed(self, size: int, found: SignedCheckpoint | None) -> None:
        before, self._before = self._before, size
        if found is None:
            self._findings.add(None, f"the checkpoint of {size} entries is damaged in its table")
            return
        if self.unseen is not None or size != self._tree.size:
            return
        if found.checkpoint.root != self._tree.root() or found.checkpoint.origin != self.ring.origin:
            if not self._findings.within(self._agreed + 1, size):
                text = f"not what the ledger's checkpoint of {size} entries was signed over"
                self._findings.add(self._agreed + 1, text, size)
            return
        problem = self._unsigned(found, max(before, *self.recovered[-1:], 0))
        if problem:
            self._findings.add(None, f"the checkpoint of {size} entries {problem}")
            return
        self._agreed = self.signed = size
        self.first_signed = self.first_signed or size
        self.good += 1

    def _unsigned(self, found: SignedCheckpoint, before: int) -> str:
        """What is wrong with who signed it; empty: nothing. A recovery may lose the first one after a rotation."""
        try:
            signers = found.note.signers(self.ring.verifiers())
        except Malformed as wrong:
            return f"is forged: {wrong}"
        missing = [key for key in self.ring.wanted(found.size, before) if key not in signers]
        if not signers:
            return "is signed by no key that the journal names"
        return f"is not signed by {missing[0]}, the journal's key of then" if missing else ""
