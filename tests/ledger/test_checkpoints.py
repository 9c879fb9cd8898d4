"""Checkpoints of a real ledger: when they are made, what they bind, and who signs them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from iarproxy.errors import LedgerDamaged, LedgerUnavailable, Malformed, Refused
from iarproxy.ledger import Ledger
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.proof.checkpoints import leaf_of
from iarproxy.ledger.proof.keyring import How, origin_of
from iarproxy.ledger.proof.keys import KeyFile, read
from iarproxy.ledger.values import EventKind
from iarproxy.trust.merkle import EMPTY, Tree, continues, includes
from iarproxy.trust.note import SigningKey
from ledger_world import SOURCE, STORE, content, copy_ledger, opened, sql, tag

ORIGIN = origin_of(STORE)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "journal.key")


def pem(seed: int) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def more(ledger: Ledger, count: int) -> None:
    """So many further first pins."""
    begun = await ledger.serial()
    numbers = range(begun, begun + count)
    await asyncio.gather(*(ledger.add(tag(f"more-{each}"), content(f"more {each}"), SOURCE) for each in numbers))


async def roots(ledger: Ledger) -> list[bytes]:
    """The root of each size, from the entries as they are read."""
    tree, found = Tree(), [EMPTY]
    for event in await ledger.events(limit=100_000):
        leaf = leaf_of(event.hash)
        assert leaf is not None
        tree.append(leaf)
        found.append(tree.root())
    return found


async def test_the_first_checkpoint_makes_the_key(ledger: Ledger, file: KeyFile) -> None:
    """It is 0600, the journal names it, and the checkpoint covers the entry that does."""
    await more(ledger, 3)
    made = await ledger.checkpoints.make(file)
    assert made is not None
    assert 0o600 == stat.S_IMODE(file.path.stat().st_mode)
    named = (await ledger.events())[-1]
    key = read(file.path, ORIGIN)
    assert key is not None
    assert (EventKind.KEYED, str(key.verifier), "first") == (named.kind, named.body["key"], named.body["how"])
    assert (ORIGIN, named.serial) == (made.checkpoint.origin, made.size)
    assert [key.verifier] == made.note.signers([key.verifier])
    assert made.checkpoint.root == (await roots(ledger))[-1]


async def test_a_checkpoint_is_made_when_the_journal_grew(ledger: Ledger, file: KeyFile) -> None:
    """Nothing new, no checkpoint; and each one continues the one before."""
    first = await ledger.checkpoints.make(file)
    assert None is await ledger.checkpoints.make(file)
    await more(ledger, 2)
    second = await ledger.checkpoints.make(file)
    assert first is not None
    assert second is not None
    standing = await ledger.checkpoints.standing()
    assert (second, second.size) == (standing.last, standing.head.serial)
    old, new, proof = await ledger.checkpoints.consistency(first.size, second.size)
    assert (first.checkpoint.root, second.checkpoint.root) == (old, new)
    assert continues(old, first.size, new, second.size, proof)


async def test_proofs_for_every_entry(ledger: Ledger, file: KeyFile) -> None:
    """Each entry is shown to be in the tree of the checkpoint; no root but its own will do."""
    await more(ledger, 20)
    made = await ledger.checkpoints.make(file)
    assert made is not None
    events = await ledger.events()
    root, proofs = await ledger.checkpoints.inclusion([each.serial for each in events], made.size)
    assert made.checkpoint.root == root
    for event, proof in zip(events, proofs, strict=True):
        leaf = leaf_of(event.hash)
        assert leaf is not None
        assert includes(root, made.size, event.serial - 1, leaf, proof)
    with pytest.raises(Malformed, match=rf"has {made.size} entries, not {made.size + 1}"):
        await ledger.checkpoints.inclusion([1], made.size + 1)


async def test_proofs_between_any_two_of_a_thousand_checkpoints(ledger: Ledger, file: KeyFile) -> None:
    """Of a thousand entries, each of which a checkpoint might end at, any two trees are shown to agree."""
    await more(ledger, 1000)
    await ledger.checkpoints.make(file)
    found = await roots(ledger)
    assert 1000 < len(found)
    for new in range(1, len(found), 111):
        for old in range(0, new + 1, 97):
            first, second, proof = await ledger.checkpoints.consistency(old, new)
            assert (found[old], found[new]) == (first, second)
            assert continues(first, old, second, new, proof)


async def test_another_process_goes_on(path: Path, ledger: Ledger, file: KeyFile) -> None:
    """What a process that starts later signs continues what was signed before; the key stays."""
    await more(ledger, 5)
    first = await ledger.checkpoints.make(file)
    await more(ledger, 9)
    async with opened(path, empty=False) as other:
        second = await other.checkpoints.make(file)
        assert None is await ledger.checkpoints.make(file)
        assert first is not None
        assert second is not None
        _, _, proof = await other.checkpoints.consistency(first.size, second.size)
    assert continues(first.checkpoint.root, first.size, second.checkpoint.root, second.size, proof)
    assert 1 == len((await ledger.checkpoints.ring()).keys)


async def test_no_checkpoint_over_another_history(path: Path, tmp_path: Path, file: KeyFile) -> None:
    """A journal that disagrees with its last checkpoint is not signed again, however it came about."""
    async with opened(path) as ledger:
        await more(ledger, 5)
        await ledger.checkpoints.make(file)
    [[trigger]] = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'journal_update'")
    sql(path, "DROP TRIGGER journal_update")
    hashes = sql(path, "SELECT hash FROM journal WHERE serial = 3")
    flipped = hashes[0][0][:-1] + ("0" if hashes[0][0][-1] != "0" else "1")
    sql(path, "UPDATE journal SET hash = ? WHERE serial = 3", flipped)
    sql(path, trigger)
    async with opened(path, empty=False) as ledger:
        await more(ledger, 6)
        with pytest.raises(LedgerDamaged, match="not the one that its checkpoint of"):
            await ledger.checkpoints.make(file)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE checkpoints SET note = ''",
        "DELETE FROM checkpoints",
        "INSERT OR REPLACE INTO checkpoints SELECT size, at, '', checksum FROM checkpoints",
        "INSERT INTO checkpoints SELECT size - 1, at, note, checksum FROM checkpoints",
        "INSERT INTO checkpoints SELECT size + 9, at, note, checksum FROM checkpoints",
    ],
)
async def test_checkpoints_are_append_only(path: Path, ledger: Ledger, file: KeyFile, statement: str) -> None:
    """The schema takes none away, changes none, and adds only what covers more."""
    await ledger.checkpoints.make(file)
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|a checkpoint covers"):
        sql(path, statement)


async def test_rotation(ledger: Ledger, file: KeyFile) -> None:
    """The old key names the new one; the first checkpoint is signed by both, the next by the new one alone."""
    before = await ledger.checkpoints.make(file)
    made = await ledger.checkpoints.rotate(file, lost=False, reason="yearly", actor="ann")
    ring = await ledger.checkpoints.ring()
    old, new = ring.keys
    assert ([], How.ROTATED) == (ring.problems(), new.how)
    assert [new.key, old.key] == made.note.signers([new.key, old.key])
    assert before is not None
    assert [new.key, old.key] == ring.wanted(made.size, before.size)
    entry = (await ledger.events())[-1]
    assert (EventKind.KEYED, "ann", "yearly") == (entry.kind, entry.actor, entry.reason)
    await more(ledger, 1)
    later = await ledger.checkpoints.make(file)
    assert later is not None
    assert [new.key] == later.note.signers([new.key, old.key]) == ring.wanted(later.size, made.size)
    assert not file.next.exists()
    here = read(file.path, ORIGIN)
    assert here is not None
    assert new.key == here.verifier


async def test_a_rotation_that_was_interrupted_is_finished(path: Path, ledger: Ledger, file: KeyFile) -> None:
    """A process that dies once the journal names the new key leaves both; the next checkpoint is signed by both."""
    await ledger.checkpoints.make(file)
    await ledger.checkpoints._rotate(file, lost=False, reason="yearly", actor="ann")
    assert file.next.exists()
    async with opened(path, empty=False) as other:
        made = await other.checkpoints.make(file)
        assert made is not None
        assert 2 == len(made.note.signers((await other.checkpoints.ring()).verifiers()))
    assert not file.next.exists()
    await more(ledger, 1)
    assert None is not await ledger.checkpoints.make(file)


async def test_a_rotation_that_died_before_its_entry_changes_nothing(ledger: Ledger, file: KeyFile) -> None:
    """A new key that the journal never named is let lie, and replaced by the next rotation."""
    await ledger.checkpoints.make(file)
    file.prepare(ORIGIN)
    await more(ledger, 1)
    assert None is not await ledger.checkpoints.make(file)
    assert 1 == len((await ledger.checkpoints.ring()).keys)
    await ledger.checkpoints.rotate(file, lost=False, reason="yearly", actor="ann")
    assert 2 == len((await ledger.checkpoints.ring()).keys)


async def test_a_lost_key_shows_for_ever(ledger: Ledger, file: KeyFile) -> None:
    """A new key in a lost one's place signs alone, and the journal says that nobody vouched for it."""
    await ledger.checkpoints.make(file)
    with pytest.raises(Refused, match="is not lost"):
        await ledger.checkpoints.rotate(file, lost=True, reason="gone", actor="ann")
    file.path.unlink()
    made = await ledger.checkpoints.rotate(file, lost=True, reason="disk died", actor="ann")
    ring = await ledger.checkpoints.ring()
    assert ([ring.keys[1]], []) == (ring.lost(), ring.problems())
    assert [ring.keys[1].key] == made.note.signers(ring.verifiers())
    await ledger.checkpoints.rotate(file, lost=False, reason="yearly", actor="ann")
    assert [How.FIRST, How.LOST, How.ROTATED] == [each.how for each in (await ledger.checkpoints.ring()).keys]


async def test_a_damaged_key_is_kept_aside(ledger: Ledger, file: KeyFile) -> None:
    """What is left of a key that cannot be read is not overwritten by its successor."""
    await ledger.checkpoints.make(file)
    file.path.write_bytes(b"half of it")
    await ledger.checkpoints.rotate(file, lost=True, reason="damaged", actor="ann")
    assert b"half of it" == file.path.with_name("journal.key.replaced-1").read_bytes()


async def test_another_key_in_its_place_is_kept_aside(ledger: Ledger, file: KeyFile) -> None:
    """Perhaps it is the newer key of a newer ledger, and nobody has another copy."""
    await ledger.checkpoints.make(file)
    file.path.write_bytes(pem(7))
    await ledger.checkpoints.rotate(file, lost=True, reason="not here", actor="ann")
    assert pem(7) == file.path.with_name("journal.key.replaced-1").read_bytes()


async def test_a_key_that_is_lost_in_the_middle_of_a_rotation(ledger: Ledger, file: KeyFile) -> None:
    """The old key, which has to sign once more, is gone: that is a loss like any other."""
    await ledger.checkpoints.make(file)
    await ledger.checkpoints._rotate(file, lost=False, reason="yearly", actor="ann")
    file.path.unlink()
    with pytest.raises(Refused, match="needs the old one once more"):
        await ledger.checkpoints.make(file)
    made = await ledger.checkpoints.rotate(file, lost=True, reason="gone", actor="ann")
    ring = await ledger.checkpoints.ring()
    assert ([How.FIRST, How.ROTATED, How.LOST], []) == ([each.how for each in ring.keys], ring.problems())
    assert [ring.keys[-1].key] == made.note.signers(ring.verifiers())


async def test_a_rotation_needs_a_reason(ledger: Ledger, file: KeyFile) -> None:
    """And somebody who does it, and a key to rotate where it is said to be lost."""
    for reason, actor in ((" ", "ann"), ("yearly", ""), ("x" * 5000, "ann")):
        with pytest.raises(Malformed, match="a rotation needs a reason"):
            await ledger.checkpoints.rotate(file, lost=False, reason=reason, actor=actor)
    with pytest.raises(Refused, match="the journal names no key yet"):
        await ledger.checkpoints.rotate(file, lost=True, reason="gone", actor="ann")


async def test_two_rotations_take_turns(ledger: Ledger, file: KeyFile) -> None:
    """While another process rotates the key, nobody else does."""
    await ledger.checkpoints.make(file)
    lock = FileLock(file.path.with_name("journal.key.lock"))
    with lock.held(patience=1), pytest.raises(LedgerUnavailable, match="other processes held"):
        await ledger.checkpoints.rotate(file, lost=False, reason="yearly", actor="ann")
    lock.close()


def _readable(path: Path) -> None:
    path.chmod(0o640)


def _damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _another(path: Path) -> None:
    path.write_bytes(pem(7))


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_readable, "is open to others: chmod 600"),
        (_damaged, "is damaged: it is no Ed25519 key"),
        (_another, "but the journal names iarproxy/"),
        (_linked, "cannot be read"),
        (_folder, "is no file|cannot be read"),
        (os.unlink, "is missing; restore it from where you keep it, or run"),
    ],
)
async def test_a_key_that_cannot_be_used(ledger: Ledger, file: KeyFile, harm: object, said: str) -> None:
    """One clear error, no checkpoint, no new key; pins go on."""
    await ledger.checkpoints.make(file)
    assert callable(harm)
    harm(file.path)
    await more(ledger, 2)
    with pytest.raises(Refused, match=said):
        await ledger.checkpoints.make(file)
    assert 1 == len((await ledger.checkpoints.ring()).keys)
    assert not file.next.exists()


async def test_a_key_that_was_there_before_is_used(ledger: Ledger, file: KeyFile) -> None:
    """Who brings a key of their own has it named, not replaced."""
    file.path.write_bytes(pem(3))
    file.path.chmod(0o600)
    made = await ledger.checkpoints.make(file)
    own = SigningKey(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32))
    assert made is not None
    assert [own.verifier] == made.note.signers([own.verifier])


async def test_a_key_that_cannot_be_made(ledger: Ledger, tmp_path: Path) -> None:
    """Where there is no room for a key there is one clear error, and nothing in the journal."""
    with pytest.raises(Refused, match=r"cannot be made.*journal\.key_file"):
        await ledger.checkpoints.make(KeyFile(tmp_path / "nowhere" / "journal.key"))
    assert () == (await ledger.checkpoints.ring()).keys


async def test_an_older_ledger_does_not_get_on_with_a_newer_key(path: Path, tmp_path: Path, file: KeyFile) -> None:
    """A ledger of before a rotation, restored with its file, does not know the key that is there now."""
    async with opened(path) as ledger:
        await ledger.checkpoints.make(file)
    old = copy_ledger(path, tmp_path / "old")
    async with opened(path, empty=False) as ledger:
        await ledger.checkpoints.rotate(file, lost=False, reason="yearly", actor="ann")
    async with opened(old, empty=False) as ledger:
        await more(ledger, 1)
        with pytest.raises(Refused, match="or the ledger is an old copy"):
            await ledger.checkpoints.make(file)
