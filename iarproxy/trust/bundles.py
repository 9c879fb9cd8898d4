"""Whether a bundle is one that a site may take: who signed it, whether it is what they signed, and whether it is late.

Rule 1: k of n: each trusted file is a signer, who may have several keys; he counts once, and no key counts for two.
Rule 2: every signature that counts is over the same bytes. Where trusted keys signed different ones, none is taken.
Rule 3: a signature that names no trusted key is passed over: others may know its signer, and a carrier could as well
        have left it out. One that names a trusted key and does not hold, or that cannot be read, ends it, however many
        others hold: the medium was tampered with, or is failing.
Rule 4: a key that was rotated counts for its signer only until the site applied a bundle that needed the rotation; that
        is remembered from then on. `rotations` says what a stolen old key can do.
Rule 5: a sequence never goes back, and a sequence is one bundle's: an older one is a replay, another one of the same
        number a split. A bundle that is applied already is fine whatever the clock says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci.bundle_manifest import BundleManifest, document_in
from iarproxy.oci.digest import Digest
from iarproxy.trust.bundle import Envelope, exact, is_signed, signed_bundle
from iarproxy.trust.bundle_statement import Base, BaseKind, BundleStatement, statement_in, statement_of
from iarproxy.trust.rotations import MAX_ROTATIONS, Rotation, known, latest
from iarproxy.trust.signing import PrivateKey, PublicKey

__all__ = [
    "MAX_SIGNATURE",
    "MAX_SIGNATURES",
    "Base",
    "BaseKind",
    "BundleStatement",
    "Fresh",
    "Repeated",
    "Standing",
    "Vouched",
    "as_signed",
    "file_of",
    "judge",
    "signed",
    "statement_in",
    "statement_of",
    "vouched",
]

MAX_SIGNATURE = 64 * 1024  # bytes of a file
MAX_SIGNATURES = 16  # of a bundle
_SHOWN = 16  # hex digits of a fingerprint


@dataclass(frozen=True, slots=True)
class Vouched:
    """A bundle that enough signers vouch for.

    Attributes:
        manifest: `bundle.json`, parsed.
        signers: fingerprints of the keys that counted.
        rotations: those that were needed and that the site does not remember yet; it shall, with the bundle.
    """

    statement: BundleStatement
    manifest: BundleManifest
    signers: tuple[str, ...]
    rotations: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Fresh:
    """It may be applied. `late`: it expired, and a person takes it all the same."""

    late: bool = False


@dataclass(frozen=True, slots=True)
class Repeated:
    """It is the one that was applied last."""


Standing: TypeAlias = Fresh | Repeated


def signed(said: BundleStatement, key: PrivateKey) -> bytes:
    """The signature of `key`: what the file `file_of` holds."""
    return signed_bundle(statement_of(said), key)


def file_of(key: PublicKey) -> str:
    """What that key's signature of a bundle is called."""
    return f"bundle.{key.fingerprint[:_SHOWN]}.sigstore.json"


def vouched(
    signatures: Sequence[bytes],
    manifest: bytes,
    trusted: Sequence[Sequence[PublicKey]],
    *,
    threshold: int | None = None,
    rotations: Sequence[bytes] = (),
    retired: Sequence[bytes] = (),
) -> Vouched:
    """What a bundle is, if enough of those who are trusted say so.

    Args:
        signatures: the bundle's, in any order, unverified.
        manifest: `bundle.json`.
        trusted: the keys of each signer.
        threshold: how many signers have to vouch; None: all of them.
        rotations: those beside the bundle, unverified.
        retired: the rotations that the site remembers (`Vouched.rotations` of what it applied before).

    Raises:
        BundleRefused: `untrusted-key`, `too-few-signatures`, `names-altered`, `attachments-altered`,
            `manifest-altered` or `malformed`.
    """
    if len(signatures) > MAX_SIGNATURES or len(rotations) > MAX_ROTATIONS:
        raise BundleRefused("malformed", f"over {MAX_SIGNATURES} signatures or {MAX_ROTATIONS} rotations")
    try:
        remembered = known(retired, (key for keys in trusted for key in keys))
        brought = known([*retired, *rotations], (key for keys in trusted for key in keys))
        ring = _Ring.of(trusted, remembered, brought)
        counted = _counted(signatures, ring)
        needed = len(trusted) if threshold is None else threshold
        _insist_on_enough(counted, needed, signatures, ring)
        said = statement_in(next(iter(counted.values())).payload)
    except Malformed as error:
        raise BundleRefused("malformed", str(error)) from error
    keys = sorted(ring.signers[hint][0].fingerprint for hint in counted)
    return Vouched(said, as_signed(manifest, said), tuple(keys), _taken(set(keys), remembered, brought))


def judge(
    said: BundleStatement, last: tuple[int, Digest] | None, now: datetime, *, accept_expired: bool = False
) -> Standing:
    """Whether a bundle may be applied after the `last` one of its origin and set.

    Args:
        said: what is signed of it.
        last: sequence and identity; None: none was applied.
        now: the site's clock.
        accept_expired: a person takes it however old it is.

    Raises:
        BundleRefused: `replayed` or `expired`.
    """
    if last is not None and said.sequence < last[0]:
        raise BundleRefused(
            "replayed",
            f"bundle {said.sequence} of set {said.set} is older than the one that was applied last, {last[0]}; "
            "use the newest one, or have one made",
        )
    if last is not None and said.sequence == last[0]:
        if said.bundle == last[1]:
            return Repeated()
        raise BundleRefused(
            "replayed",
            f"another bundle {said.sequence} of set {said.set} was applied before, {last[1].short}, and this one is "
            f"{said.bundle.short}: {said.origin} made two of one number, or its ledger is an old copy",
        )
    if now < said.expires:
        return Fresh()
    if accept_expired:
        return Fresh(late=True)
    raise BundleRefused(
        "expired",
        f"the bundle expired at {said.expires.isoformat()}, and it is {now.isoformat(timespec='seconds')} here; have a "
        "new one made, or, where the clock is wrong, `--accept-expired --reason TEXT`",
    )


@dataclass(frozen=True, slots=True)
class _Ring:
    """Whose keys count. By the hint of a key: the key and its signer; `stale`: keys that were retired, successors."""

    signers: Mapping[str, tuple[PublicKey, int]]
    stale: Mapping[str, PublicKey]

    @classmethod
    def of(
        cls,
        trusted: Sequence[Sequence[PublicKey]],
        remembered: Mapping[str, Rotation],
        brought: Mapping[str, Rotation],
    ) -> _Ring:
        found: dict[str, tuple[PublicKey, int]] = {}
        stale: dict[str, PublicKey] = {}
        for signer, keys in enumerate(trusted):
            for key in keys:
                for each in _line(key, brought):
                    if each.fingerprint in remembered:
                        stale[each.hint] = latest(each, remembered)
                    elif found.setdefault(each.hint, (each, signer))[1] != signer:
                        raise BundleRefused(
                            "untrusted-key", f"the key {_short(each)} is two signers' of those who are trusted"
                        )
        return cls(found, stale)


def _line(key: PublicKey, rotations: Mapping[str, Rotation]) -> Iterable[PublicKey]:
    """A key and its successors."""
    yield key
    while (rotation := rotations.get(key.fingerprint)) is not None:
        key = rotation.new
        yield key


def _counted(signatures: Iterable[bytes], ring: _Ring) -> dict[str, Envelope]:
    """The signatures that hold, by the hint of their key."""
    found: dict[str, Envelope] = {}
    for number, raw in enumerate(signatures, 1):
        if len(raw) > MAX_SIGNATURE:
            raise Malformed(f"signature {number} is longer than {MAX_SIGNATURE} bytes")
        envelope = exact(raw)
        key, _ = ring.signers.get(envelope.hint, (None, 0))
        if key is None:
            continue
        if not is_signed(envelope, key):
            raise BundleRefused(
                "untrusted-key",
                f"the signature that names the key {_short(key)} was not made by it; it was altered",
            )
        if found.setdefault(envelope.hint, envelope).payload != envelope.payload:
            raise BundleRefused("too-few-signatures", f"the key {_short(key)} signed two statements: none is taken")
    return found


def _insist_on_enough(counted: Mapping[str, Envelope], needed: int, signatures: Sequence[bytes], ring: _Ring) -> None:
    if needed < 1:
        raise BundleRefused("untrusted-key", "a bundle needs a signature: say whom you trust with --trust")
    count = len({ring.signers[hint][1] for hint in counted})
    stale = [ring.stale[each.hint] for each in map(exact, signatures) if each.hint in ring.stale]
    why = f"; it is signed by a retired key, whose successor is {_short(stale[0])}" if stale else ""
    if not counted:
        raise BundleRefused("untrusted-key", f"no key that is trusted signed the bundle{why or _named(signatures)}")
    if count < needed:
        raise BundleRefused("too-few-signatures", f"{count} of the {needed} signers that are needed signed it{why}")
    if len({envelope.payload for envelope in counted.values()}) > 1:
        keys = ", ".join(sorted(_short(ring.signers[hint][0]) for hint in counted))
        raise BundleRefused("too-few-signatures", f"the keys {keys} signed different statements: none is taken")


def _named(signatures: Sequence[bytes]) -> str:
    keys = ", ".join(sorted({each.claimed for each in map(exact, signatures)}))
    look = "`iarproxy keys show NAME.pub` tells which one a file holds"
    return f"; its signatures name the keys {keys}; {look}" if keys else ": it has no signature"


def _taken(
    used: Collection[str], remembered: Mapping[str, Rotation], brought: Mapping[str, Rotation]
) -> tuple[bytes, ...]:
    """The new rotations whose signer vouched by a later key only; `used`: the fingerprints of the keys that counted."""
    found: list[bytes] = []
    for old, rotation in brought.items():
        later = {each.fingerprint for each in _line(rotation.new, brought)}
        if old not in remembered and old not in used and not later.isdisjoint(used):
            found.append(rotation.raw)
    return tuple(found)


def as_signed(raw: bytes, said: BundleStatement) -> BundleManifest:
    """The manifest, which is what was signed.

    Raises:
        BundleRefused: it is not; says of which section.
    """
    if Digest.of(raw) != said.manifest:
        raise _altered(raw, said)
    manifest = BundleManifest.parse(raw)
    if (manifest.identity, manifest.set, dict(manifest.sections())) != (said.bundle, said.set, dict(said.sections)):
        raise BundleRefused("malformed", "the statement that was signed does not fit the bundle.json that it is about")
    return manifest


def _altered(raw: bytes, said: BundleStatement) -> BundleRefused:
    """The refusal of what is not as it was signed; its code is that of the first section that is another."""
    try:
        document: Any = document_in(raw)
    except Malformed:
        document = None
    sections = document if isinstance(document, dict) else {}
    found = {
        kind: told
        for kind in ("names", "attachments")
        if isinstance(sections.get(kind), list) and (told := _difference(kind, sections[kind], *said.sections[kind]))
    }
    if not found:
        return BundleRefused("manifest-altered", "bundle.json is not the one that was signed")
    told = ", and ".join(found.values())
    return BundleRefused(f"{next(iter(found))}-altered", f"bundle.json was changed after it was signed: it has {told}")


def _difference(kind: str, section: list[Any], count: int, of: Digest) -> str:
    """What is wrong with a section of so many entries and that sha256; empty: nothing."""
    if len(section) != count:
        return f"{len(section)} {kind} instead of {count}"
    try:
        same = Digest.of(orjson.dumps(section, option=orjson.OPT_SORT_KEYS)) == of
    except orjson.JSONEncodeError:  # it nests deeper than anything is written
        same = False
    return "" if same else f"other {kind} than were signed"


def _short(key: PublicKey) -> str:
    return key.fingerprint[:_SHOWN]
