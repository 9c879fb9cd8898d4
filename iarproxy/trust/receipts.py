"""Receipts: what a site says that it holds, signed by the site, to be carried back.

Rule 1: a receipt is about one bundle that was applied. It lists the whole closure of that bundle, what came before with
        other bundles included, so that a delta can leave all of it out.
Rule 2: it says how far the site's own journal had come, so that two receipts of a site can be compared.
Rule 3: who reads one trusts the site's key, and nothing but it; a receipt of another set, or for another origin, is
        never taken for the one that is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci.bundle_manifest import SET_NAME
from iarproxy.oci.digest import Digest
from iarproxy.trust import statement
from iarproxy.trust.bundle import Envelope, exact, is_signed, signed_bundle
from iarproxy.trust.bundle_statement import FILE
from iarproxy.trust.note import MAX_NOTE
from iarproxy.trust.signing import PrivateKey, PublicKey
from iarproxy.trust.statement import moment, moment_in, number, text

PREDICATE = "https://iarproxy.dev/receipt/v1"
MAX_RECEIPT = 256 * 2**20  # bytes of the file


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a site acknowledges.

    Attributes:
        origin: of the journal of the side that made the bundle. site: of the site's own.
        sequence, bundle, manifest: of the bundle that was applied last: number, identity, sha256 of `bundle.json`.
        environment: whose names it made.
        held: the closure of that bundle, sorted.
        serial: how many entries the site's journal had.
        checkpoint: the site's newest signed checkpoint; empty: it had none.
        at: when it was written (aware, whole seconds).
        seen: how many entries of the origin's journal the newest checkpoint covers that came with a bundle; 0: none.
    """

    origin: str
    site: str
    set: str
    sequence: int
    bundle: Digest
    manifest: Digest
    environment: str
    held: tuple[Digest, ...]
    serial: int
    at: datetime
    checkpoint: str = ""
    seen: int = 0

    def insist(self, origin: str, set_name: str) -> None:
        """Return if it is about that origin's bundles of that set.

        Raises:
            BundleRefused: `wrong-receipt`.
        """
        if (self.origin, self.set) != (origin, set_name):
            raise BundleRefused(
                "wrong-receipt",
                f"the receipt is about set {self.set} of {self.origin}, and set {set_name} of {origin} is wanted",
            )


def receipt_of(receipt: Receipt, key: PrivateKey) -> bytes:
    """The signed receipt: a Sigstore bundle whose subject is the `bundle.json` that was applied."""
    return signed_bundle(_written(receipt), key)


def receipt_in(raw: bytes, trusted: Sequence[PublicKey]) -> Receipt:
    """The receipt in a file, signed by one of the site's keys.

    Raises:
        BundleRefused: `malformed` or `untrusted-key`.
    """
    if len(raw) > MAX_RECEIPT:
        raise BundleRefused("malformed", f"not a receipt: it is longer than {MAX_RECEIPT} bytes")
    try:
        return statement.read(_verified(exact(raw), trusted), PREDICATE, _made, _written)
    except Malformed as error:
        raise BundleRefused("malformed", f"not a receipt: {error}") from error


def is_receipt(raw: bytes) -> bool:
    """Whether a file is a receipt, whoever signed it."""
    try:
        statement.read(exact(raw).payload, PREDICATE, _made, _written)
    except Malformed:
        return False
    return True


def _verified(envelope: Envelope, trusted: Sequence[PublicKey]) -> bytes:
    if any(key.hint == envelope.hint and is_signed(envelope, key) for key in trusted):
        return envelope.payload
    raise BundleRefused(
        "untrusted-key",
        f"the receipt names the key {envelope.claimed}, and none of the keys that are trusted signed it; --trust "
        "takes the site's .pub, which `iarproxy bundle receipt SET --pub FILE` writes there",
    )


def _written(receipt: Receipt) -> bytes:
    predicate = {
        "origin": receipt.origin,
        "site": receipt.site,
        "set": receipt.set,
        "sequence": receipt.sequence,
        "bundle": str(receipt.bundle),
        "environment": receipt.environment,
        "held": list(map(str, receipt.held)),
        "seen": receipt.seen,
        "journal": {"serial": receipt.serial, "checkpoint": receipt.checkpoint},
        "createdAt": moment(receipt.at),
    }
    return statement.written(FILE, receipt.manifest, PREDICATE, predicate)


def _made(manifest: Digest, predicate: dict[str, Any]) -> Receipt:
    held = tuple(map(Digest.parse, predicate["held"]))
    if SET_NAME.fullmatch(predicate["set"]) is None or not all(first < second for first, second in pairwise(held)):
        raise ValueError("its set has no name of a set, or what it lists is not in order")
    checkpoint = predicate["journal"]["checkpoint"]
    if not isinstance(checkpoint, str) or len(checkpoint) > MAX_NOTE:
        raise ValueError("its checkpoint is no note")
    return Receipt(
        origin=text(predicate["origin"]),
        site=text(predicate["site"]),
        set=predicate["set"],
        sequence=number(predicate["sequence"], 1),
        bundle=Digest.parse(predicate["bundle"]),
        manifest=manifest,
        environment=text(predicate["environment"]),
        held=held,
        serial=number(predicate["journal"]["serial"]),
        seen=number(predicate["seen"]),
        at=moment_in(predicate["createdAt"]),
        checkpoint=checkpoint,
    )
