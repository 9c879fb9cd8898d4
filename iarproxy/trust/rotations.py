"""Rotations: a signer's old key says which key signs for him from then on.

Rule 1: a key has one successor. Two rotations of one key to two others are the mark of a stolen key, or of a mistake;
        nothing by either is taken until a person decided which key to trust.
Rule 2: a rotation counts only from a key that is trusted, so a carrier cannot bring in anybody by adding a file.
Rule 3: what a site remembers is the rotation itself, signature and all: it is verified each time, against the keys that
        the site trusts now.
Rule 4: nothing here knows a moment: whoever stole the old key can rotate too. He is that signer until the site has seen
        the true rotation; from then on the old key is worth nothing there. Where that is not enough, several signers
        are (`bundles`), or the new key is handed over by another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci.digest import Digest
from iarproxy.trust import statement
from iarproxy.trust.bundle import exact, is_signed, signed_bundle
from iarproxy.trust.signing import PrivateKey, PublicKey

PREDICATE = "https://iarproxy.dev/key-rotation/v1"
MAX_ROTATION = 16 * 1024  # bytes
MAX_ROTATIONS = 16  # beside a bundle
_FILE = "new.pub"


@dataclass(frozen=True, slots=True)
class Rotation:
    """From the key of the fingerprint `old` to the key `new`, as `raw` says; verified."""

    old: str
    new: PublicKey
    raw: bytes


def rotation_of(old: PrivateKey, new: PublicKey) -> bytes:
    """The signed bundle in which `old` names its successor; its subject is the PEM file of the new key."""
    return signed_bundle(_statement((old.public.fingerprint, new)), old)


def file_of(old: PublicKey) -> str:
    """What the rotation of that key is called, beside keys and in bundles."""
    return f"rotation.{old.fingerprint[:16]}.sigstore.json"


def known(raw: Iterable[bytes], trusted: Iterable[PublicKey]) -> dict[str, Rotation]:
    """The rotations of trusted keys, and of their successors, by the fingerprint of the old key (rule 2).

    Raises:
        Malformed: one of them is none.
        BundleRefused: `untrusted-key`: one of them was altered, or they name two successors, or go round in a circle.
    """
    waiting = [(each, *_parsed(each)) for each in raw]
    keys = {key.hint: key for key in trusted}
    found: dict[str, Rotation] = {}
    while ready := [each for each in waiting if each[1] in keys]:
        waiting = [each for each in waiting if each not in ready]
        for each, hint, (old, new) in ready:
            first = found.setdefault(old, _verified(each, keys[hint], old, new)).new
            if first != new:
                raise _two_successors(old, first, new)
            keys[new.hint] = new
    _insist_on_ends(found)
    return found


def insist(raw: bytes) -> None:
    """Return if that is a rotation of a key, whoever signed it.

    Raises:
        Malformed: it is none.
    """
    _parsed(raw)


def latest(key: PublicKey, rotations: Mapping[str, Rotation]) -> PublicKey:
    """The key that signs for the owner of `key` in the end."""
    while (rotation := rotations.get(key.fingerprint)) is not None:
        key = rotation.new
    return key


def leading_to(key: PublicKey, raw: Iterable[bytes]) -> list[bytes]:
    """Of the rotations `raw` those by which readers who know an older key come to `key`, the newest first.

    Raises:
        Malformed: one of them is none.
    """
    by_new = {new.fingerprint: (old, each) for each in raw for _, (old, new) in [_parsed(each)]}
    found: list[bytes] = []
    wanted = key.fingerprint
    while wanted in by_new and len(found) < MAX_ROTATIONS:
        wanted, each = by_new.pop(wanted)
        found.append(each)
    return found


def _verified(raw: bytes, key: PublicKey, old: str, new: PublicKey) -> Rotation:
    if key.fingerprint != old or not is_signed(exact(raw), key):
        raise BundleRefused("untrusted-key", f"the rotation of the key {old[:16]} was not signed by it, or was altered")
    return Rotation(old, new, raw)


def _insist_on_ends(found: Mapping[str, Rotation]) -> None:
    for start in found:
        seen, here = {start}, found[start].new.fingerprint
        while here in found:
            if here in seen:
                raise BundleRefused("untrusted-key", f"the rotations of the key {start[:16]} lead back to it")
            seen.add(here)
            here = found[here].new.fingerprint


def _two_successors(old: str, first: PublicKey, second: PublicKey) -> BundleRefused:
    keys = f"{first.fingerprint[:16]} and {second.fingerprint[:16]}"
    return BundleRefused(
        "untrusted-key",
        f"the key {old[:16]} names two successors, {keys}: one of them may be a thief's; ask the signer by another way "
        "and trust the right one's .pub instead of the old one's",
    )


def _parsed(raw: bytes) -> tuple[str, tuple[str, PublicKey]]:
    if len(raw) > MAX_ROTATION:
        raise Malformed(f"longer than a rotation of a key may be, {MAX_ROTATION} bytes")
    envelope = exact(raw)
    return envelope.hint, statement.read(envelope.payload, PREDICATE, _made, _statement)


def _statement(said: tuple[str, PublicKey]) -> bytes:
    old, new = said
    predicate = {"old": old, "new": new.fingerprint, "publicKey": new.pem.decode()}
    return statement.written(_FILE, Digest.of(new.pem), PREDICATE, predicate)


def _made(_: Digest, predicate: dict[str, Any]) -> tuple[str, PublicKey]:
    return Digest("sha256", predicate["old"]).hex, PublicKey.parse(predicate["publicKey"].encode())
