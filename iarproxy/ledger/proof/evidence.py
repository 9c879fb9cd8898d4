"""Proofs that leave the machine: the entries that made a tag's pins, each shown to be in a signed checkpoint.

Rule 1: a file is checked with nothing but itself and, at best, a key that the reader trusts: no ledger, no network.
Rule 2: it says what it proves and what not, and the check says it again; nobody shall read more out of it.
Rule 3: lines are the journal's own, byte for byte, so that each hash can be made again by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from iarproxy.errors import LedgerDamaged, Malformed, Refused, UnknownManifest
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.checkpoints import Checkpoints, leaf_of
from iarproxy.ledger.proof.keyring import How, Keyring
from iarproxy.ledger.values import Event, Name
from iarproxy.trust.merkle import MAX_PROOF, includes
from iarproxy.trust.note import VerifierKey, hash_from_base64, to_base64

MAX_SIZE = 64 * 1024 * 1024  # bytes of a file
_WHAT = "iarproxy proof of pins, version 1"
_MOST = 100_000  # entries in a file
PROVES = (
    "that these entries, word for word, are in the journal whose checkpoint was signed",
    "that they are this name's revisions, in order and from the first one on, with none left out between them",
)
PROVES_NOT = (
    "that the last of them was the last one when the checkpoint was signed: later ones may have been left out",
    "that nobody was shown another history: compare the checkpoint with others of this journal",
    "that the times are right, and who a person is beyond what the machine's kernel reported",
    "that the content is good, or what was served where",
)


@dataclass(frozen=True, slots=True)
class Proven:
    """What a file proves.

    Attributes:
        pins: the entries that made the pins of `name`, in order.
        key: who signed the checkpoint.
        trusted: whether that is a key that the reader named, or one that follows from it.
        lost: whether a key was lost before; nobody vouches for the one that came then.
    """

    name: Name
    pins: tuple[Event, ...]
    checkpoint: SignedCheckpoint
    key: VerifierKey
    trusted: bool
    lost: bool


async def prove(checkpoints: Checkpoints, name: Name, signed: SignedCheckpoint, entries: Sequence[Entry]) -> bytes:
    """A file that shows the entries that made the pins of `name` to be in the checkpoint `signed`.

    Raises:
        UnknownManifest: the name was never pinned.
        LedgerDamaged: an entry fails its hash, or the journal disagrees with the checkpoint.
    """
    if not entries:
        raise UnknownManifest(f"{name} was never pinned; `iarproxy pins list` shows what is")
    keyed = [each for each in await checkpoints.keyed() if each.serial <= signed.size]
    for each in (*entries, *keyed):
        if not each.is_intact():
            raise LedgerDamaged(f"entry {each.serial}: fails its hash; run `iarproxy journal verify`")
    root, proofs = await checkpoints.inclusion([each.serial for each in (*keyed, *entries)], signed.size)
    if root != signed.checkpoint.root:
        raise LedgerDamaged(
            f"the journal is not what its checkpoint of {signed.size} entries was made of; run "
            "`iarproxy journal verify`"
        )
    listed = [shown(each, proof) for each, proof in zip((*keyed, *entries), proofs, strict=True)]
    document = {
        "what": _WHAT,
        "proves": PROVES,
        "proves_not": PROVES_NOT,
        "reference": str(name.reference),
        "environment": name.environment,
        "checkpoint": str(signed.note),
        "keys": listed[: len(keyed)],
        "entries": listed[len(keyed) :],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def check(raw: bytes, trusted: Sequence[VerifierKey] = ()) -> Proven:
    """What a file proves.

    Raises:
        Malformed: it is none, or proves nothing; says which entry is wrong.
        Refused: it is signed by none of the `trusted` keys, nor by one that follows from them.
    """
    document = _document(raw)
    signed = SignedCheckpoint.parse(str(document["checkpoint"]))
    keyed = [entry_in(each, signed) for each in document["keys"]]
    entries = [entry_in(each, signed) for each in document["entries"]]
    try:
        ring = Keyring.of(signed.checkpoint.origin, keyed)
        events = tuple(each.event() for each in entries)
    except LedgerDamaged as damaged:
        raise Malformed(str(damaged)) from damaged
    key = signer(signed, ring)
    if trusted and not any(ring.leads(one, key) for one in trusted):
        raise Refused(f"signed by {key}, which is no key that you trust, and follows from none")
    name = _name(entries, events, str(document["reference"]), str(document["environment"]))
    return Proven(name, events, signed, key, bool(trusted), any(each.how is How.LOST for each in ring.keys))


def shown(entry: Entry, proof: Sequence[bytes]) -> dict[str, Any]:
    """An entry and the proof that it is in a tree, as files hold them."""
    return {"entry": entry.line().decode().removesuffix("\n"), "proof": [to_base64(each) for each in proof]}


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document: Any = orjson.loads(raw) if len(raw) <= MAX_SIZE else None
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or document.get("what") != _WHAT:
        raise Malformed("not a proof of pins; `iarproxy journal prove REF` writes one")
    listed = [document.get("keys"), document.get("entries")]
    named = all(isinstance(document.get(key), str) for key in ("checkpoint", "reference", "environment"))
    if not named or not all(isinstance(each, list) and 0 < len(each) <= _MOST for each in listed):
        raise Malformed("a proof of pins with a field that is missing or of the wrong kind")
    return document


def entry_in(document: Any, signed: SignedCheckpoint) -> Entry:
    """The entry that `shown` wrote, which is in the tree of `signed`.

    Raises:
        Malformed: it is none, or not shown to be.
    """
    of = document if isinstance(document, dict) else {}
    line, proof = of.get("entry"), of.get("proof")
    if not isinstance(line, str) or not isinstance(proof, list) or len(proof) > MAX_PROOF:
        raise Malformed("an entry of the proof has a field that is missing or of the wrong kind")
    entry = Entry.from_line(line.encode("utf-8", "replace"))
    if entry is None:
        raise Malformed(f"{_claimed(line)}: is no line of a journal, or fails its hash: it was changed")
    leaf = leaf_of(entry.hash)
    hashes = [hash_from_base64(str(each)) for each in proof]
    if leaf is None or not includes(signed.checkpoint.root, signed.size, entry.serial - 1, leaf, hashes):
        raise Malformed(f"entry {entry.serial}: is not shown to be among the {signed.size} that were signed")
    return entry


def _claimed(line: str) -> str:
    """Which entry a broken line seems to be."""
    number = line.removeprefix('{"serial":').partition(",")[0]
    return f"entry {number}" if number.isdecimal() and number.isascii() and len(number) < 20 else "an entry"  # noqa: PLR2004  # as 2**63


def signer(signed: SignedCheckpoint, ring: Keyring) -> VerifierKey:
    """Who signed a checkpoint, which is whom the journal names for it.

    Raises:
        Malformed: he did not, or the keys do not follow from each other.
    """
    for serial, problem in ring.problems():
        raise Malformed(f"entry {serial}: {problem}")
    wanted = ring.wanted(signed.size, signed.size)
    if not wanted or wanted[0] not in signed.note.signers(ring.verifiers()):
        raise Malformed("the checkpoint is not signed by the key that the journal names for it")
    return wanted[0]


def _name(entries: Sequence[Entry], events: Sequence[Event], reference: str, environment: str) -> Name:
    """The name that all entries are about, whose revisions follow each other from the first one."""
    pinned: str | None = None
    last = 0
    for number, (entry, each) in enumerate(zip(entries, events, strict=True), 1):
        if (str(each.reference), each.environment) != (reference, environment):
            raise Malformed(f"entry {each.serial}: is not about {reference} in {environment}")
        body = each.body if isinstance(each.body, dict) else {}  # type: ignore[redundant-expr]  # others' file
        if entry.serial <= last or entry.revision != number or body.get("previous") != pinned:
            raise Malformed(f"entry {each.serial}: is revision {entry.revision} in place {number}: one is left out")
        last, descriptor = entry.serial, body.get("descriptor")
        pinned = descriptor.get("digest") if isinstance(descriptor, dict) else None
    wanted = events[0].reference
    if wanted is None:
        raise Malformed("the proof is about no name")
    return Name(environment, wanted)
