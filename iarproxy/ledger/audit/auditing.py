"""The audit of a journal: database, journal file, checkpoints and keys, against each other and against what left here.

Rule 1: it reads the files as they lie, and opens no ledger: opening brings the journal file up to the database, and
        what was tampered with must not be mended before it is seen. It works beside a running `serve`, page by page.
Rule 2: it finds and says, and changes nothing. What it says names the first entry that is wrong.
Rule 3: a history that was rewritten as a whole, hashes, file and checkpoints, agrees with itself. Only a checkpoint
        that left the machine tells; the last of these that agrees and the first that does not say in which entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from iarproxy.errors import ConfigError, LedgerDamaged, Malformed
from iarproxy.ledger import journal, schema
from iarproxy.ledger.audit.findings import Finding, Findings
from iarproxy.ledger.audit.outside import Outside
from iarproxy.ledger.audit.trail import Trail
from iarproxy.ledger.connection import connect, failures, transaction
from iarproxy.ledger.database import PATIENCE
from iarproxy.ledger.journal_file import NAME
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.opening import lock_path
from iarproxy.ledger.proof import checkpoint_rows
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.keyring import origin_of
from iarproxy.ledger.verification import Inspection
from iarproxy.trust.note import VerifierKey

_PAGE = 500  # checkpoints


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit found.

    Attributes:
        size, hash: the journal's head, as far as it could be read.
        pins: revisions of pins.
        checkpoints: how many of the ledger's hold; the newest of them covers `signed` entries.
        brought: how many of those that were brought along hold.
        findings: what is wrong, in the order of the entries.
        remarks: what is not wrong and has to be known.
    """

    origin: str
    size: int
    hash: str
    pins: int
    checkpoints: int
    signed: int
    brought: int
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def first(self) -> int | None:
        """The first entry that is wrong; None: it could not be told."""
        return min((each.serial for each in self.findings if each.serial is not None), default=None)


async def audit(path: Path, *, brought: Sequence[SignedCheckpoint] = (), key: VerifierKey | None = None) -> AuditReport:
    """The report on the ledger at `path`.

    Args:
        path: of the database; the journal file lies beside it.
        brought: checkpoints that left the machine.
        key: one that the journal has to name; checkpoints that are signed by it are believed.

    Raises:
        ConfigError: there is no ledger, or it has another schema.
        LedgerUnavailable: it cannot be read now.
    """
    return await asyncio.to_thread(_audit, path, sorted(brought, key=lambda each: each.size), key)


def _audit(path: Path, brought: Sequence[SignedCheckpoint], key: VerifierKey | None) -> AuditReport:
    if not path.is_file():
        raise ConfigError(f"there is no ledger at {path}; `iarproxy ledger rebuild` makes it from the journal file")
    findings = Findings()
    with failures(path), closing(FileLock(lock_path(path))) as lock, closing(connect(path)) as connection:
        with _turn(path, lock, connection):
            trail = Trail(_begun(path, connection, findings), {each.size for each in brought}, findings)
        with Outside(path.with_name(NAME), findings) as outside:
            try:
                goes_on = True
                while goes_on:
                    with _turn(path, lock, connection):
                        goes_on = _page(connection, trail, outside)
            except LedgerDamaged as damaged:
                findings.add(trail.head.serial + 1, f"cannot be read: {damaged}")
    held = _compare(trail, brought, key, findings)
    return _report(trail, held, findings)


@contextmanager
def _turn(path: Path, lock: FileLock, connection: Connection) -> Iterator[None]:
    """A look at files that agree with each other; between two looks writers take their turn."""
    with failures(path), lock.held(shared=True, patience=PATIENCE), transaction(connection):
        yield


def _begun(path: Path, connection: Connection, findings: Findings) -> str:
    """The journal's origin, after all that is not about entries was looked at."""
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version != schema.VERSION:
        raise ConfigError(
            f"the ledger {path} has schema {version}, this iarproxy {schema.VERSION}: a newer one cannot be read, an "
            "older one is brought forward by `iarproxy pins list`"
        )
    found = Inspection()
    found.structure(connection)
    found.observations(connection)
    for problem in found.problems:
        findings.add(None, problem)
    return origin_of(schema.read_meta(connection, "store"))


def _page(connection: Connection, trail: Trail, outside: Outside) -> bool:
    """The next entries; False at the end."""
    entries = journal.entries_after(connection, trail.head.serial)
    last = entries[-1].serial if entries else trail.head.serial
    after = trail.expected
    while after <= last and (rows := checkpoint_rows.rows_after(connection, after, _PAGE)):
        trail.expect(rows)
        after = rows[-1][0]
    for entry in entries:
        outside.meet(entry)
        trail.take(connection, entry)
    if not entries:
        trail.end(connection)
        outside.end()
    return bool(entries)


def _compare(trail: Trail, brought: Sequence[SignedCheckpoint], key: VerifierKey | None, findings: Findings) -> int:
    """How many of the checkpoints that left the machine hold (rule 3)."""
    if key is not None:
        _insist_on_key(key, trail, findings)
    known = [*trail.ring.verifiers(), *filter(None, [key])]
    held, accused = 0, False
    agreed = 0
    for each in brought:
        if not _is_believed(each, trail, known, findings):
            continue
        root = trail.roots.get(each.size)
        if root == each.checkpoint.root:
            held, agreed = held + 1, each.size
        elif not accused and not findings.within(agreed + 1, each.size):
            accused = True
            _accuse(each, trail, agreed, findings)
    return held


def _insist_on_key(key: VerifierKey, trail: Trail, findings: Findings) -> None:
    """Whoever has no trusted key may name it and say that it was lost: only what it signed for counts."""
    current = trail.ring.current
    if current is None or key not in trail.ring.verifiers():
        findings.add(None, f"the journal names no key {key}: it is another journal, or was made anew")
    elif not trail.ring.leads(key, current.key):
        text = f"names {current.key}, for which {key} does not vouch: give the key by --key that was told you since"
        findings.add(current.serial, text)


def _accuse(each: SignedCheckpoint, trail: Trail, agreed: int, findings: Findings) -> None:
    end = trail.head.serial
    if each.size > end:
        text = f"missing: a checkpoint that left here covers {each.size} entries, the journal ends at {end}"
        findings.add(end + 1, text, each.size)
        return
    before = f"; that of {agreed} entries agrees" if agreed else ""
    text = f"not what was signed here when the journal had {each.size} entries{before}: history was rewritten"
    findings.add(agreed + 1, text, each.size)


def _is_believed(each: SignedCheckpoint, trail: Trail, known: list[VerifierKey], findings: Findings) -> bool:
    what = f"the checkpoint of {each.size} entries that was brought along"
    if each.checkpoint.origin != trail.ring.origin:
        findings.add(None, f"{what} is of another journal: {each.checkpoint.origin}, not {trail.ring.origin}")
        return False
    try:
        signers = each.note.signers(known)
    except Malformed as wrong:
        findings.add(None, f"{what} is forged: {wrong}")
        return False
    if signers:
        return True
    agrees = trail.roots.get(each.size) == each.checkpoint.root
    by = ", ".join(sorted({f"{one.name}+{one.key.hex()}" for one in each.note.signatures}))
    findings.add(
        None,
        f"{what} is signed by {by}, which this journal does not name, and its root "
        f"{'agrees' if agrees else 'differs'}: either it is forged, or the journal was made anew with another key; "
        "give the key that you trust by --key",
    )
    return False


def _report(trail: Trail, held: int, findings: Findings) -> AuditReport:
    remarks = [
        f"entry {each.serial}: the key before it was lost; nobody but the journal itself vouches for {each.key}"
        for each in trail.ring.lost()
    ]
    if trail.unseen is not None:
        remarks.append(f"checkpoints that cover entry {trail.unseen} could not be compared")
    elif trail.signed < trail.head.serial:
        remarks.append(f"{trail.head.serial - trail.signed} entries, from {trail.signed + 1} on, are not signed yet")
    if trail.recovered and trail.ring.keys and (trail.first_signed or trail.head.serial) >= trail.recovered[-1]:
        remarks.append(
            f"entry {trail.recovered[-1]}: the ledger was made anew there; of checkpoints before it only copies tell"
        )
    return AuditReport(
        trail.ring.origin,
        trail.head.serial,
        trail.head.hash,
        trail.pins,
        trail.good,
        trail.signed,
        held,
        findings.ordered(),
        tuple(remarks),
    )
