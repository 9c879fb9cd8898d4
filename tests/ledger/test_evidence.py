"""Proofs of pins: made of a real ledger, checked with nothing but themselves, and spoilt in every place."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from iarproxy.errors import LedgerDamaged, Malformed, Refused, UnknownManifest
from iarproxy.ledger import DEFAULT, EventKind, Ledger
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.proof.checkpoints import leaf_of
from iarproxy.ledger.proof.evidence import check, prove
from iarproxy.ledger.proof.keyring import first, origin_of
from iarproxy.ledger.proof.keys import KeyFile, read
from iarproxy.ledger.values import Name
from iarproxy.trust.merkle import node_hash
from iarproxy.trust.note import Checkpoint, Note, SigningKey, VerifierKey, to_base64
from ledger_world import SOURCE, STORE, content, opened, sql, tag, utc_now

APP = Name(DEFAULT, tag("v1"))


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "journal.key")


@pytest_asyncio.fixture
async def history(ledger: Ledger, keys: KeyFile) -> Ledger:
    """Three revisions of one tag among others, and a checkpoint."""
    one, two = content("one"), content("two")
    await ledger.add(APP.reference, one, SOURCE)
    await ledger.add(tag("other"), one, SOURCE)
    await ledger.repin(APP.reference, one.digest, two, reason="a fix", actor="ann", source=SOURCE)
    await ledger.within("prod").add(APP.reference, one, SOURCE)
    await ledger.remove(APP.reference, two.digest, reason="bad", actor="ann")
    await ledger.checkpoints.make(keys)
    return ledger


def key_of(keys: KeyFile) -> VerifierKey:
    found = read(keys.path, origin_of(STORE))
    assert found is not None
    return found.verifier


async def proof_of(ledger: Ledger, name: Name = APP) -> bytes:
    entries = await ledger.checkpoints.pinnings(name)
    signed = (await ledger.checkpoints.standing()).last
    assert signed is not None
    return await prove(ledger.checkpoints, name, signed, entries)


async def test_a_proof_holds(history: Ledger, keys: KeyFile) -> None:
    """It gives the entries that made the pins, in order, and who signed; trust is what the reader brings."""
    proven = check(await proof_of(history))
    kinds = [EventKind.PINNED, EventKind.REPINNED, EventKind.REMOVED]
    assert (APP, kinds, key_of(keys)) == (proven.name, [each.kind for each in proven.pins], proven.key)
    assert (False, False) == (proven.trusted, proven.lost)
    assert check(await proof_of(history), [key_of(keys)]).trusted
    in_prod = Name("prod", APP.reference)
    assert in_prod == check(await proof_of(history, in_prod)).name


async def test_trust_follows_rotations(history: Ledger, keys: KeyFile) -> None:
    """Who trusts an old key trusts what it named; not what came in the place of a lost one."""
    oldest = key_of(keys)
    await history.checkpoints.rotate(keys, lost=False, reason="yearly", actor="ann")
    second = key_of(keys)
    proven = check(await proof_of(history), [oldest])
    assert (second, True, False) == (proven.key, proven.trusted, proven.lost)
    keys.path.unlink()
    await history.checkpoints.rotate(keys, lost=True, reason="disk died", actor="ann")
    raw = await proof_of(history)
    assert (key_of(keys), True) == (check(raw, [key_of(keys)]).key, check(raw).lost)
    for key in (oldest, second):
        with pytest.raises(Refused, match="no key that you trust, and follows from none"):
            check(raw, [key])


async def test_a_left_out_revision(history: Ledger) -> None:
    """A revision that is missing in between is noticed; that of another name is as well."""
    document = orjson.loads(await proof_of(history))
    for drop, said in ((0, "is revision 2 in place 1"), (1, "is revision 3 in place 2")):
        kept = [each for place, each in enumerate(document["entries"]) if place != drop]
        with pytest.raises(Malformed, match=said):
            check(orjson.dumps({**document, "entries": kept}))
    other = orjson.loads(await proof_of(history, Name("prod", APP.reference)))
    with pytest.raises(Malformed, match="is not about"):
        check(orjson.dumps({**document, "entries": other["entries"]}))
    with pytest.raises(Malformed, match="names no key, or fails its hash"):
        check(orjson.dumps({**document, "keys": document["entries"]}))


async def test_nothing_in_it_can_be_changed(history: Ledger, keys: KeyFile) -> None:
    """Of the bytes that matter none can be changed: the check fails, or it says the same."""
    raw = await proof_of(history)
    good = check(raw, [key_of(keys)])
    chance = random.Random(5)
    for _ in range(400):
        at = chance.randrange(len(raw))
        changed = raw[:at] + bytes([raw[at] ^ (1 << chance.randrange(7))]) + raw[at + 1 :]
        try:
            assert (good.name, good.pins) == ((found := check(changed, [key_of(keys)])).name, found.pins)
        except (Malformed, Refused):
            continue


async def test_a_wrong_entry_is_named(history: Ledger) -> None:
    """An entry whose text was changed, and one with another's proof, are told by their serial."""
    document = orjson.loads(await proof_of(history))
    serial = orjson.loads(document["entries"][1]["entry"])["serial"]
    changed: Any = orjson.loads(orjson.dumps(document))
    changed["entries"][1]["entry"] = changed["entries"][1]["entry"].replace("a fix", "a fox")
    with pytest.raises(Malformed, match=rf"^entry {serial}: is no line of a journal, or fails its hash"):
        check(orjson.dumps(changed))
    document["entries"][1]["proof"] = document["entries"][0]["proof"]
    with pytest.raises(Malformed, match=rf"^entry {serial}: is not shown to be among"):
        check(orjson.dumps(document))


@pytest.mark.parametrize("field", ["what", "reference", "environment", "checkpoint", "keys", "entries"])
async def test_what_is_no_proof(history: Ledger, field: str) -> None:
    """A file with a field of the wrong kind, or of something else, is refused."""
    document = orjson.loads(await proof_of(history))
    shown: list[Any] = [3, {}, {"entry": 3}, {"entry": "", "proof": ["A"]}, {"entry": "x", "proof": []}]
    for value in (3, [], *([each] for each in shown)):
        with pytest.raises(Malformed):
            check(orjson.dumps({**document, field: value}))
    for raw in (b"", b"null", b"{}"):
        with pytest.raises(Malformed):
            check(raw)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"body": "nonsense"},
        {"body": "[]"},
        {"at": "0001-01-01T00:00:00+23:59"},
        {"at": "now"},
        {"serial": "2"},
        {"kind": "x"},
    ],
)
def test_what_somebody_signs_who_means_no_good(change: dict[str, Any]) -> None:
    """Whoever has a key can sign anything: what is no entry is refused with one error, whatever stands in it."""
    signer = SigningKey(origin_of(STORE), Ed25519PrivateKey.generate())
    named = Entry.made(Head(), utc_now(), EventKind.KEYED, None, actor="m", body=first(signer.verifier))
    body = {"previous": None, "descriptor": None}
    made = Entry.made(named.head, utc_now(), EventKind.REMOVED, APP.reference, actor="m", revision=1, body=body)
    strange = replace(made, **change)
    strange = replace(strange, hash=hashlib.sha256(strange.line().rpartition(b',"hash":"')[0]).hexdigest())
    leaves = [leaf for leaf in (leaf_of(named.hash), leaf_of(strange.hash)) if leaf is not None]
    signed = Note.signed(Checkpoint(origin_of(STORE), 2, node_hash(*leaves)).text(), [signer])
    shown = [
        {"entry": each.line().decode().removesuffix("\n"), "proof": [to_base64(other)]}
        for each, other in ((named, leaves[1]), (strange, leaves[0]))
    ]
    about = {"reference": str(APP.reference), "environment": DEFAULT, "keys": shown[:1], "entries": shown[1:]}
    raw = orjson.dumps({"what": "iarproxy proof of pins, version 1", "checkpoint": str(signed), **about})
    if not change:
        assert [2] == [each.serial for each in check(raw).pins]
        return
    with pytest.raises(Malformed):
        check(raw)


async def test_what_cannot_be_proven(path: Path, history: Ledger) -> None:
    """A name that was never pinned, and a journal that disagrees with its checkpoint."""
    with pytest.raises(UnknownManifest, match="was never pinned"):
        await proof_of(history, Name(DEFAULT, tag("never")))
    [[trigger]] = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'journal_update'")
    sql(path, "DROP TRIGGER journal_update")
    sql(path, "UPDATE journal SET hash = replace(hash, 'a', 'b') WHERE serial = 3")
    sql(path, trigger)
    async with opened(path, empty=False) as ledger:
        with pytest.raises(LedgerDamaged):
            await proof_of(ledger)
