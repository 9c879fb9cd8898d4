"""`journal.json`: what of the origin's journal came with a bundle, and what a site makes of it (`gathering` writes it).

Rule 1: it has the origin's newest checkpoint, the entry of the bundle's own making, those that made the pins of its
        names, and the journal's keys, each shown to be in the tree; and how the tree continues earlier checkpoints that
        sites may have seen. The statement that the signers signed binds it by its sha256.
Rule 2: a site keeps the checkpoint of each bundle that it applies. A journal that does not continue what the site saw
        is refused: it was rolled back, or tells different sites different things, and so may its pins.
Rule 3: a bundle that brings no proof from what the site saw last is taken, and the site is told: the origin may have
        made too many bundles since. A receipt says what the site saw, and the next bundle brings that proof.
Rule 4: it is bounded. What there is no room for is counted, and left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

import orjson

from iarproxy.errors import BundleRefused, LedgerDamaged, Malformed
from iarproxy.ledger import DEFAULT, Event, EventKind
from iarproxy.ledger.bundles import Applied
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.evidence import entry_in, signer
from iarproxy.ledger.proof.keyring import Keyring
from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.trust.bundles import BundleStatement
from iarproxy.trust.comparing import ConsistencyProof, Continued, Same, Split, Undecided, Unproven, Unrelated, compare
from iarproxy.trust.merkle import MAX_PROOF
from iarproxy.trust.note import VerifierKey, hash_from_base64

MAX_EVIDENCE = 64 * 2**20  # bytes of the file
WHAT = "iarproxy evidence of a bundle, version 1"
_FIELDS = frozenset({"what", "checkpoint", "keys", "bundled", "pins", "omitted", "continues"})
MOST_PINS = 10_000
MOST_SEEN = 16  # earlier checkpoints that are continued


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a `journal.json` shows.

    Attributes:
        checkpoint: of the origin's journal. key: who signed it.
        lost: the entries that named a key in the place of a lost one, for which nobody vouches.
        pins: the entries that made pins of the bundle's names. omitted: how many there was no room for.
        continues: by the size of an earlier checkpoint, the proof from there.
    """

    checkpoint: SignedCheckpoint
    key: VerifierKey
    lost: tuple[int, ...]
    pins: tuple[Event, ...]
    omitted: int
    continues: Mapping[int, ConsistencyProof]


@dataclass(frozen=True, slots=True)
class First:
    """The site saw nothing of that journal before."""


Seen: TypeAlias = First | Same | Continued | Undecided


def checked(raw: bytes, said: BundleStatement, manifest: BundleManifest) -> Evidence:
    """What a bundle's `journal.json` shows.

    Raises:
        BundleRefused: `manifest-altered`: it is not the file that was signed; `malformed`: it does not show what the
            signed statement and manifest say.
    """
    if Digest.of(raw) != said.journal:
        raise BundleRefused("manifest-altered", "journal.json is not the one that was signed")
    try:
        return _shown(raw, said, manifest)
    except (Malformed, LedgerDamaged) as error:
        raise BundleRefused("malformed", f"journal.json: {error}") from error


def compared(evidence: Evidence, applied: Iterable[Applied], set_name: str) -> Seen:
    """What the origin's journal is to what this site saw of it before.

    Args:
        evidence: of the bundle, checked.
        applied: all bundles that were applied here, in order, with the checkpoints that they brought.
        set_name: the bundle's.

    Raises:
        BundleRefused: `journal-split`: it does not continue that.
    """
    now = evidence.checkpoint.checkpoint
    seen = [(each.set, SignedCheckpoint.parse(each.checkpoint)) for each in applied if each.checkpoint]
    found: Seen = First()
    for name, before in sorted(seen, key=lambda each: each[1].size):
        if before.checkpoint.origin != now.origin:
            continue
        if before.size > now.size:
            if name == set_name:
                raise _split(
                    f"has {now.size} entries, and had {before.size} with an earlier bundle: it was rolled back"
                )
            continue
        verdict = compare(before.checkpoint, now, evidence.continues.get(before.size))
        match verdict:
            case Same() | Continued() | Undecided():
                found = verdict
            case Split(size):
                raise _split(f"had another history of {size} entries with an earlier bundle: it tells two")
            case Unproven(old, new):
                raise _split(f"is not shown to continue, with its {new} entries, the {old} of an earlier bundle")
            case Unrelated():
                raise AssertionError("checkpoints of one origin are related")
            case _:
                assert_never(verdict)
    return found


def told(shown: Evidence, seen: Seen) -> str:
    """What has to be told to a person of it; empty: nothing."""
    origin = shown.checkpoint.checkpoint.origin
    match seen:
        case First():
            return _lost(shown, 0)
        case Same(size):
            return _lost(shown, size)
        case Continued(old, _):
            return _lost(shown, old)
        case Undecided(old, new):
            return (
                f"nothing shows that the journal of {origin} with its {new} entries continues the {old} that were seen "
                f"here before; ask there for `iarproxy journal proof --from {old} --to {new}`"
            )
        case _:
            assert_never(seen)


def _lost(shown: Evidence, known: int) -> str:
    if not any(serial > known for serial in shown.lost):
        return ""
    return f"a key of the journal of {shown.key.name} was lost and replaced: nobody vouches for {shown.key}; ask there"


def newest(applied: Iterable[Applied], origin: str) -> SignedCheckpoint | None:
    """The largest checkpoint of that origin's journal that came with a bundle that was applied here."""
    found = [SignedCheckpoint.parse(each.checkpoint) for each in applied if each.origin == origin and each.checkpoint]
    return max(found, key=lambda each: each.size, default=None)


def _split(what: str) -> BundleRefused:
    return BundleRefused(
        "journal-split", f"the journal of the bundle's origin {what}; ask there what happened, and keep both bundles"
    )


def _shown(raw: bytes, said: BundleStatement, manifest: BundleManifest) -> Evidence:
    document = _document(raw)
    signed = SignedCheckpoint.parse(document["checkpoint"])
    ring = Keyring.of(signed.checkpoint.origin, [entry_in(each, signed) for each in document["keys"]])
    if signed.checkpoint.origin != said.origin:
        raise Malformed(f"it is of the journal {signed.checkpoint.origin[:120]}, not of the bundle's, {said.origin}")
    _insist_bundled(entry_in(document["bundled"], signed).event(), said)
    pins = tuple(entry_in(each, signed).event() for each in document["pins"])
    _insist_pinned(pins, manifest)
    return Evidence(
        checkpoint=signed,
        key=signer(signed, ring),
        lost=tuple(each.serial for each in ring.lost()),
        pins=pins,
        omitted=document["omitted"],
        continues={each.old: each for each in (_proof(of, signed) for of in document["continues"])},
    )


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document: Any = orjson.loads(raw) if len(raw) <= MAX_EVIDENCE else None
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or set(document) != _FIELDS or document["what"] != WHAT:
        raise Malformed("not the evidence of a bundle")
    sound = isinstance(document["checkpoint"], str) and type(document["omitted"]) is int
    for field, most in (("keys", MOST_PINS), ("pins", MOST_PINS), ("continues", MOST_SEEN + 1)):
        sound = sound and isinstance(document[field], list) and len(document[field]) <= most
    if not sound:
        raise Malformed("a field is of the wrong kind, or too long")
    return document


def _proof(document: Any, signed: SignedCheckpoint) -> ConsistencyProof:
    match document:
        case {"from": int(old), "hashes": list(hashes)} if len(hashes) <= MAX_PROOF:
            found = tuple(hash_from_base64(str(each)) for each in hashes)
            return ConsistencyProof(signed.checkpoint.origin, old, signed.size, found)
    raise Malformed("a proof of what it continues is none")


def _insist_bundled(event: Event, said: BundleStatement) -> None:
    wanted = {"set": said.set, "sequence": said.sequence, "bundle": str(said.bundle)}
    if event.kind is not EventKind.BUNDLED or {key: event.body.get(key) for key in wanted} != wanted:
        raise Malformed(f"entry {event.serial} is not that of the bundle's making")


def _insist_pinned(pins: Collection[Event], manifest: BundleManifest) -> None:
    named = {each.reference: each.descriptor.digest for each in manifest.names}
    for event in pins:
        if event.reference is None or event.environment != DEFAULT or named.get(event.reference) != pinned_by(event):
            raise Malformed(f"entry {event.serial} is not about a name of the bundle as it is there")


def pinned_by(event: Event) -> Digest | None:
    """What an entry pinned its name to."""
    descriptor = event.body.get("descriptor")
    return Digest.parse(str(descriptor.get("digest"))) if isinstance(descriptor, dict) else None
