"""The audit of a journal whose real files somebody tampered with: it fails, and names the entry."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from iarproxy.errors import ConfigError
from iarproxy.ledger import rebuild, restore, schema
from iarproxy.ledger.audit.auditing import AuditReport, audit
from iarproxy.ledger.connection import connect, create_file, transaction
from iarproxy.ledger.database import project
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.journal_file import NAME, export, read_lines
from iarproxy.ledger.proof import checkpoint_file, checkpoint_rows
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.checkpoints import leaf_of
from iarproxy.ledger.proof.keyring import origin_of
from iarproxy.ledger.proof.keys import KeyFile, read
from iarproxy.ledger.transaction import Transaction
from iarproxy.trust.merkle import Tree
from iarproxy.trust.note import Checkpoint, Note, VerifierKey
from ledger_world import SOURCE, STORE, content, copy_ledger, opened, sql, tag, utc_now

PINS = 12  # first pins, each with a checkpoint; every third of them repinned
ORIGIN = origin_of(STORE)


@dataclass
class Site:
    """A ledger with a history, closed; and the checkpoints that left it."""

    path: Path
    witness: Path
    keys: KeyFile

    @property
    def journal(self) -> Path:
        return self.path.with_name(NAME)

    @property
    def key(self) -> VerifierKey:
        found = read(self.keys.path, ORIGIN)
        assert found is not None
        return found.verifier

    def left(self) -> list[SignedCheckpoint]:
        return list(checkpoint_file.read(self.witness))

    def entries(self) -> list[Entry]:
        return [entry for _, entry in read_lines(self.journal) if entry is not None]

    async def audit(self, *, against: bool = False, key: VerifierKey | None = None) -> AuditReport:
        return await audit(self.path, brought=self.left() if against else (), key=key)

    async def work(self, count: int, *, first: int = 0) -> None:
        """Pins, repins, and a checkpoint after each of them."""
        async with opened(self.path, empty=not first) as ledger:
            for number in range(first, first + count):
                pin = await ledger.add(tag(f"v{number}"), content(f"{number}"), SOURCE)
                if number % 3 == 0:
                    old, new = pin.descriptor.digest, content(f"{number} again")
                    await ledger.repin(pin.reference, old, new, reason=f"fix {number}", actor="ann", source=SOURCE)
                made = await ledger.checkpoints.make(self.keys)
                assert made is not None
                checkpoint_file.append(self.witness, made)


@pytest_asyncio.fixture
async def site(path: Path, tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(path, tmp_path / "witness", KeyFile(tmp_path / "journal.key"))
    await made.work(PINS)
    yield made


@contextmanager
def unguarded(path: Path) -> Iterator[sqlite3.Connection]:
    """The database without its triggers, which come back afterwards: somebody who knows what he does."""
    with closing(sqlite3.connect(path)) as raw, raw:
        triggers = raw.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        yield raw
        for _, statement in triggers:
            raw.execute(statement)


def texts(report: AuditReport) -> str:
    return "; ".join(map(str, report.findings))


async def test_a_sound_journal(site: Site) -> None:
    """Everything agrees, with what left the machine too; nothing is left unsigned."""
    report = await site.audit(against=True, key=site.key)
    entries = site.entries()
    assert ((), (), True) == (report.findings, report.remarks, report.ok)
    assert (len(entries), entries[-1].hash, ORIGIN) == (report.size, report.hash, report.origin)
    assert (PINS, PINS, len(entries)) == (report.checkpoints, report.brought, report.signed)


async def test_beside_a_running_ledger(site: Site) -> None:
    """While others write, nothing is taken for wrong that is only new."""
    async with opened(site.path, empty=False) as ledger:
        for number in range(20):
            await ledger.add(tag(f"new-{number}"), content("new"), SOURCE)
            report = await site.audit(against=True)
            assert () == report.findings
    assert (f"20 entries, from {report.size - 19} on, are not signed yet",) == report.remarks


async def test_a_flipped_byte_anywhere_in_the_file(site: Site) -> None:
    """Whatever byte of the journal file is changed: the audit fails and names the entry in whose line it is."""
    whole = site.journal.read_bytes()
    serial, place = 1, 0
    for line in whole.splitlines(keepends=True):
        for at in {place + serial % (len(line) - 2), place + len(line) - 2}:
            site.journal.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            report = await site.audit()
            assert serial == report.first, texts(report)
        place, serial = place + len(line), serial + 1
    site.journal.write_bytes(whole)
    assert (await site.audit()).ok


async def test_a_changed_field_of_a_row(site: Site) -> None:
    """Whatever field of an entry is changed in the database, the audit fails and names the entry."""
    columns = ["at", "kind", "tag", "actor", "reason", "previous", "body", "hash", "environment"]
    for serial, column in enumerate(columns, 3):
        with unguarded(site.path) as raw:
            [before] = raw.execute(f"SELECT {column} FROM journal WHERE serial = ?", [serial]).fetchone()
            raw.execute(f"UPDATE journal SET {column} = ? WHERE serial = ?", [f"x{(before or '')[1:]}", serial])
        report = await site.audit()
        assert serial == report.first, texts(report)
        assert f"entry {serial}: fails its hash: it was changed" in texts(report)
        with unguarded(site.path) as raw:
            raw.execute(f"UPDATE journal SET {column} = ? WHERE serial = ?", [before, serial])
    assert (await site.audit()).ok


async def test_a_flipped_byte_of_the_database_file(site: Site) -> None:
    """A byte that is changed on the disk, inside of what an entry says, is found, and its entry named."""
    raw = site.path.read_bytes()
    for entry in site.entries():
        if entry.reason:
            at = raw.index(f"{entry.actor}{entry.reason}{entry.previous}".encode())
            site.path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            report = await site.audit()
            assert entry.serial == report.first, texts(report)
    site.path.write_bytes(raw)


async def test_a_dropped_entry(site: Site) -> None:
    """An entry that is taken out of the database, of the file, or of both, is named as missing."""
    whole = site.journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for serial in (1, 7, len(lines)):
        site.journal.write_bytes(b"".join(lines[: serial - 1] + lines[serial:]))
        report = await site.audit()
        assert serial == report.first, texts(report)
        assert f"entry {serial}: is not in journal.jsonl" in texts(report)
    site.journal.write_bytes(whole)
    with unguarded(site.path) as raw:
        raw.execute("DELETE FROM journal WHERE serial = 7")
    report = await site.audit()
    assert 7 == report.first
    assert "entry 7: is missing from the database" in texts(report)
    assert "entry 7: is in journal.jsonl, line 7, and not in the database" in texts(report)
    site.journal.write_bytes(b"".join(lines[:6] + lines[7:]))
    assert 7 == (await site.audit()).first


async def test_swapped_entries(site: Site) -> None:
    """Two entries that changed places, in the database or in the file, are found; the first of them is named."""
    whole = site.journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    lines[5], lines[6] = lines[6], lines[5]
    site.journal.write_bytes(b"".join(lines))
    report = await site.audit()
    assert 6 == report.first
    assert "entry 6: stands out of order in line 7 of journal.jsonl" in texts(report)
    site.journal.write_bytes(whole)
    with unguarded(site.path) as raw:
        raw.executescript(
            "UPDATE journal SET serial = -1 WHERE serial = 6; UPDATE journal SET serial = 6 WHERE serial = 7;"
            "UPDATE journal SET serial = 7 WHERE serial = -1"
        )
    report = await site.audit()
    assert 6 == report.first
    assert "entry 6: fails its hash" in texts(report)


async def test_an_old_database(site: Site, tmp_path: Path) -> None:
    """A database that is older than its journal file is told from the first entry that it lacks."""
    old = copy_ledger(site.path, tmp_path / "old")
    before = len(site.entries())
    await site.work(3, first=PINS)
    old.replace(site.path)
    report = await site.audit()
    assert before + 1 == report.first
    assert "and not in the database, which lost it or is an old copy" in texts(report)


async def test_an_old_database_with_its_file(site: Site, tmp_path: Path) -> None:
    """Both restored agree with each other; what left the machine tells what is missing."""
    old = copy_ledger(site.path, tmp_path / "old")
    before = len(site.entries())
    await site.work(3, first=PINS)
    after = len(site.entries())
    for name in (site.path.name, NAME):
        old.with_name(name).replace(site.path.with_name(name))
    assert (await site.audit()).ok
    report = await site.audit(against=True)
    first = site.left()[PINS].size
    assert (before + 1, PINS) == (report.first, report.brought)
    missing = f"missing: a checkpoint that left here covers {first} entries, the journal ends at {before}"
    assert f"entries {before + 1} to {first}: {missing}" == texts(report)
    assert after > before


def rehashed(entries: Sequence[Entry], edit: Callable[[Entry], Entry]) -> list[Entry]:
    """The same history, told in another way: each entry edited, all hashes made anew."""
    told: list[Entry] = []
    head = Head()
    for entry in entries:
        edited = replace(edit(entry), previous=head.hash)
        text = edited.line().partition(b',"hash":"')[0]
        told.append(replace(edited, hash=hashlib.sha256(text).hexdigest()))
        head = told[-1].head
    return told


def retell(site: Site, entries: Sequence[Entry]) -> None:
    """What root could do: database, journal file and all checkpoints anew, signed with the key that lies there."""
    key = read(site.keys.path, ORIGIN)
    assert key is not None
    sizes = [int(size) for [size] in sql(site.path, "SELECT size FROM checkpoints ORDER BY size")]
    for each in site.path.parent.glob(f"{site.path.name}*"):
        each.unlink()
    site.journal.unlink()
    create_file(site.path)
    tree = Tree()
    with closing(connect(site.path)) as connection:
        with transaction(connection, "IMMEDIATE"):
            schema.upgrade(connection)
            schema.write_meta(connection, "store", STORE)
            tx = Transaction(connection, Head(), utc_now, project)
            for entry in entries:
                tx.replay(entry)
                leaf = leaf_of(entry.hash)
                assert leaf is not None
                tree.append(leaf)
                if entry.serial in sizes:
                    made = Checkpoint(ORIGIN, entry.serial, tree.root())
                    checkpoint_rows.append(tx, SignedCheckpoint(Note.signed(made.text(), [key]), made))
        export([list(entries)], site.journal)


async def test_a_history_that_was_rewritten_as_a_whole(site: Site) -> None:
    """It agrees with itself, and is found by what left the machine: after which entry, and before which."""
    changed = 9

    def edit(entry: Entry) -> Entry:
        return replace(entry, at=entry.at.replace("20", "19", 1)) if entry.serial == changed else entry

    retell(site, rehashed(site.entries(), edit))
    assert () == (await site.audit(key=site.key)).findings
    report = await site.audit(against=True)
    sizes = [each.size for each in site.left()]
    agreed = max(size for size in sizes if size < changed)
    differs = min(size for size in sizes if size >= changed)
    assert [(agreed + 1, differs)] == [(each.serial, each.last) for each in report.findings]
    assert f"not what was signed here when the journal had {differs} entries; that of {agreed} entries" in texts(report)
    assert sizes.index(differs) == report.brought
    async with opened(site.path, empty=False) as ledger:
        await ledger.add(tag("later"), content("later"), SOURCE)
        assert None is not await ledger.checkpoints.make(site.keys)
    one = [each for each in site.left() if each.size == sizes[-1]]
    [found] = (await audit(site.path, brought=one)).findings
    assert (1, sizes[-1]) == (found.serial, found.last)


async def test_a_history_that_was_made_anew_with_another_key(site: Site) -> None:
    """A checkpoint by a key that the journal does not name accuses where its key is trusted, and never passes."""
    trusted, left = site.key, site.left()
    for each in site.path.parent.glob("*"):
        if each != site.witness:
            each.unlink()
    witness, site.witness = site.witness, site.witness.with_name("other")
    await site.work(PINS)
    site.witness = witness
    report = await site.audit(against=True)
    assert not report.ok
    assert f"is signed by {ORIGIN}+{trusted.hash.hex()}, which this journal does not name" in texts(report)
    report = await site.audit(key=trusted)
    assert [f"the journal names no key {trusted}: it is another journal, or was made anew"] == list(
        map(str, report.findings)
    )
    report = await site.audit(against=True, key=trusted)
    assert (1, left[0].size) == (report.first, report.findings[0].last)


async def test_checkpoints_that_were_tampered_with(site: Site) -> None:
    """A changed row, another root, a signature of nobody: each is told."""
    with unguarded(site.path) as raw:
        raw.execute("UPDATE checkpoints SET at = '2020' WHERE size = (SELECT min(size) FROM checkpoints)")
    report = await site.audit()
    assert f"the checkpoint of {site.left()[0].size} entries is damaged in its table" == texts(report)
    forged = Note.parse(str(site.left()[0].note).replace(ORIGIN, "iarproxy/other"))
    other = SignedCheckpoint(forged, Checkpoint.parse(forged.text))
    report = await audit(site.path, brought=[other])
    assert "is of another journal: iarproxy/other" in texts(report)
    real = site.left()[3]
    changed = replace(real.checkpoint, size=real.size + 1)
    report = await audit(site.path, brought=[SignedCheckpoint(replace(real.note, text=changed.text()), changed)])
    assert "is forged: the signature by" in texts(report)


async def test_a_pin_that_does_not_follow_from_the_journal(site: Site) -> None:
    """A row of a pin that was changed is found by the entry that made it."""
    entry = next(each for each in site.entries() if each.revision == 2)
    with unguarded(site.path) as raw:
        raw.execute("UPDATE pins SET digest = replace(digest, 'a', 'b') WHERE serial = ?", [entry.serial])
    report = await site.audit()
    assert [entry.serial] == [each.serial for each in report.findings]
    assert f"the pin that it made, {entry.name}, is damaged or missing" in texts(report)


async def test_keys_are_followed(site: Site) -> None:
    """A rotation and a lost key are sound; the lost one is remarked on for ever; a forged succession is found."""
    async with opened(site.path, empty=False) as ledger:
        await ledger.checkpoints.rotate(site.keys, lost=False, reason="yearly", actor="ann")
        site.keys.path.unlink()
        await ledger.checkpoints.rotate(site.keys, lost=True, reason="disk died", actor="ann")
    report = await site.audit(against=True)
    size = len(site.entries())
    assert () == report.findings
    assert [f"entry {size}: the key before it was lost"] == [each.partition(";")[0] for each in report.remarks]

    def forge(entry: Entry) -> Entry:
        return replace(entry, body=entry.body.replace('"lost"', '"rotated"')) if entry.serial == size else entry

    retell(site, rehashed(site.entries(), forge))
    assert f"entry {size}: names a key that the one before it did not sign" in texts(await site.audit())


async def test_a_trusted_key_that_was_said_to_be_lost(site: Site) -> None:
    """Anybody can name the key that a reader trusts and go on with his own: for that one it does not vouch."""
    first = site.key
    async with opened(site.path, empty=False) as ledger:
        await ledger.checkpoints.rotate(site.keys, lost=False, reason="yearly", actor="ann")
        assert (await site.audit(key=first)).ok
        site.keys.path.unlink()
        await ledger.checkpoints.rotate(site.keys, lost=True, reason="disk died", actor="mallory")
    assert (await site.audit(key=site.key)).ok
    report = await site.audit(key=first)
    assert [report.size] == [each.serial for each in report.findings]
    assert f"names {site.key}, for which {first} does not vouch" in texts(report)


@pytest.mark.parametrize(
    "field", [{"serial": "3"}, {"serial": None}, {"serial": True}, {"serial": [3]}, {"at": 3}, {"revision": "1"}]
)
async def test_a_line_with_a_field_of_another_kind(site: Site, field: dict[str, object]) -> None:
    """A line in the file whose hash fits and whose fields are no entry's is a broken line."""
    lines = site.journal.read_bytes().splitlines(keepends=True)
    header, _, rest = lines[2].partition(b',"body":')
    signed = orjson.dumps({**orjson.loads(header + b"}"), **field})[:-1] + b',"body":' + rest[: rest.rindex(b',"hash"')]
    lines[2] = b'%s,"hash":"%s"}\n' % (signed, hashlib.sha256(signed).hexdigest().encode())
    site.journal.write_bytes(b"".join(lines))
    report = await site.audit()
    assert (3, "entry 3: its line in journal.jsonl, line 3, is broken") == (report.first, texts(report))


async def test_after_a_rebuild(site: Site) -> None:
    """A ledger that was rebuilt has no checkpoints; copies still bind it, and new ones are made over it."""
    site.path.unlink()
    await rebuild(site.path, store_identity=STORE, actor="ann", reason="lost")
    report = await site.audit(against=True)
    assert ((), 0, PINS) == (report.findings, report.checkpoints, report.brought)
    assert any("the ledger was made anew there" in each for each in report.remarks)
    async with opened(site.path, empty=False) as ledger:
        assert None is not await ledger.checkpoints.make(site.keys)
    report = await site.audit(against=True)
    assert ((), 1) == (report.findings, report.checkpoints)


async def test_after_a_restore_over_a_rotation(site: Site, tmp_path: Path) -> None:
    """A backup of before a rotation, brought forward by the journal file, is sound with what is signed after it."""
    old = copy_ledger(site.path, tmp_path / "old")
    async with opened(site.path, empty=False) as ledger:
        await ledger.checkpoints.rotate(site.keys, lost=False, reason="yearly", actor="ann")
    await restore(site.path, old.parent, store_identity=STORE, actor="ann", reason="lost")
    async with opened(site.path, empty=False) as ledger:
        assert None is not await ledger.checkpoints.make(site.keys)
    report = await site.audit(against=True)
    assert ((), PINS + 1) == (report.findings, report.checkpoints)


async def test_what_cannot_be_audited(site: Site) -> None:
    """No ledger, and one of another schema, are refused with what to do."""
    with pytest.raises(ConfigError, match=r"there is no ledger .*`iarproxy ledger rebuild`"):
        await audit(site.path.with_name("nothing.db"))
    with closing(sqlite3.connect(site.path)) as raw, raw:
        raw.execute("PRAGMA user_version = 1")
    with pytest.raises(ConfigError, match="has schema 1"):
        await site.audit()
